"""A checkpoint's own generation settings: what changes a count or raises is put aside, and a note says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import flowcut
from tests import tiny

QUESTION = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loaded = flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("own")))
    loaded.model.generation_config.suppress_tokens = [tiny.SPECIAL.index("<image>")]
    return loaded


@pytest.fixture
def own(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets one of the checkpoint's settings, for the length of a test."""

    def set_to(**settings: Any) -> None:
        for name, value in settings.items():
            monkeypatch.setattr(model.model.generation_config, name, value)

    return set_to


def counts(run: flowcut.Run) -> tuple[Any, ...]:
    kept = (run.token_ids, run.visual_tokens, run.prompt_tokens, run.layer_tokens, run.kv_bytes)
    return (*kept, run.flops.total, [round(token.logprob, 5) for token in run.tokens])


PUT_ASIDE = [
    {"prefill_chunk_size": 7},
    {"guidance_scale": 1.7},
    {"prompt_lookup_num_tokens": 3},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "low"},
    {"num_beam_groups": 2, "diversity_penalty": 0.5, "num_beams": 4},
    {"num_return_sequences": 3, "do_sample": True},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"cache_implementation": "quantized", "cache_config": {"nbits": 4}},
    {"max_time": 1e-6},
    {"min_new_tokens": 30},
    {"token_healing": True},
    {"constraints": [[5]]},
    {"force_words_ids": [[5]]},
]


@pytest.mark.parametrize("method", [None, "flowcut", "fastv"])
@pytest.mark.parametrize("settings", PUT_ASIDE, ids=lambda settings: next(iter(settings)))
def test_what_changes_counts_or_raises_is_put_aside_and_said(
    model: Any, own: Any, settings: dict[str, Any], method: str | None
) -> None:
    cut = None if method is None else flowcut.Cut(method, tokens=9)
    plain = flowcut.ask(model, tiny.picture(), "What?", cut, **QUESTION)
    own(**settings)
    run = flowcut.ask(model, tiny.picture(), "What?", cut, **QUESTION)
    assert counts(run) == counts(plain)
    name, value = next(iter(settings.items()))
    (said,) = [note for note in run.notes if "own generation settings" in note]
    assert f"{name} = {value!r}" in said
    assert said.endswith("this answer is greedy, with one beam and without the rest.")


@pytest.mark.parametrize(
    "name", ["output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"]
)
def test_what_is_only_held_in_memory_is_not_mentioned(model: Any, own: Any, name: str) -> None:
    plain = flowcut.ask(model, tiny.picture(), "What?", **QUESTION)
    own(**{name: True})
    run = flowcut.ask(model, tiny.picture(), "What?", **QUESTION)
    assert counts(run) == counts(plain)
    assert run.notes == plain.notes


def test_stop_strings_are_kept(model: Any, own: Any) -> None:
    own(eos_token_id=None)
    plain = flowcut.ask(model, tiny.picture(), "What?", max_new_tokens=20)
    place, last = next(
        (place, token.text) for place, token in enumerate(plain.tokens) if token.text.isascii() and token.text.strip()
    )
    own(stop_strings=[last])
    run = flowcut.ask(model, tiny.picture(), "What?", max_new_tokens=20)
    assert run.token_ids == plain.token_ids[: place + 1]


def test_what_changes_nothing_has_no_note(model: Any, own: Any) -> None:
    own(guidance_scale=1.0, num_beam_groups=1, cache_implementation="dynamic", repetition_penalty=1.05)
    assert flowcut.ask(model, tiny.picture(), "What?", **QUESTION).notes == ()


def test_a_prompt_in_pieces_is_no_prompt_that_was_not_prepared(model: Any, own: Any) -> None:
    """Around a stock `generate`, the setting of the checkpoint is in force."""
    own(prefill_chunk_size=7)
    inputs = model.processor(images=tiny.picture(), text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    with (
        flowcut.prune(model.model, flowcut.Cut("fastv", tokens=9)) as session,
        pytest.raises(flowcut.FlowCutError, match=r"read in pieces \(prefill_chunk_size\)"),
    ):
        model.model.generate(**session.prepare(inputs), max_new_tokens=2)
    with flowcut.prune(model.model, flowcut.Cut("fastv", tokens=9)) as session:
        out = model.model.generate(**session.prepare(inputs), max_new_tokens=2, prefill_chunk_size=None)
    assert out.shape[1] > 2


@pytest.mark.parametrize("method", ["fastv", "sparsevlm", "dart", "pyramiddrop"])
@pytest.mark.parametrize("kind", ["llava", "next"])
def test_a_static_cache_is_refused_by_every_cut_inside_the_language_model(kind: str, method: str) -> None:
    """Fault 12."""
    hf_model, processor = (tiny.llava(), tiny.processor()) if kind == "llava" else (tiny.llava_next(), None)
    processor = processor or tiny.next_processor()
    inputs = processor(images=tiny.picture(), text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    methods = [method] if kind == "llava" else [method, "flowcut"]
    for name in methods:
        with (
            flowcut.prune(hf_model, flowcut.Cut(name, tokens=9)) as session,
            pytest.raises(flowcut.FlowCutError, match="a static cache has one length for all"),
        ):
            hf_model.generate(**session.prepare(inputs), max_new_tokens=2, cache_implementation="static")


def test_a_static_cache_is_fine_where_the_language_model_is_not_cut() -> None:
    hf_model, processor = tiny.llava(), tiny.processor()
    inputs = processor(images=tiny.picture(), text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    found = []
    with flowcut.prune(hf_model, flowcut.FlowCut(tokens=9)) as session:
        for options in ({}, {"cache_implementation": "static"}):
            wanted = {"max_new_tokens": 6, "suppress_tokens": [3], **options}
            found.append(hf_model.generate(**session.prepare(inputs), **wanted))
    assert torch.equal(*found)


def test_bare_decoders_refuse_it_too(tmp_path: Path) -> None:
    from transformers import StaticCache

    decoder = tiny.llava().model.language_model
    embeds = torch.randn(1, 40, decoder.config.hidden_size)
    cache = StaticCache(config=decoder.config, max_cache_len=64)
    with (
        flowcut.record_language(decoder, (3, 20), flowcut.Cut("fastv", tokens=9)),
        pytest.raises(flowcut.FlowCutError, match="static cache"),
    ):
        decoder(inputs_embeds=embeds, past_key_values=cache)
