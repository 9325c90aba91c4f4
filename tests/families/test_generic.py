"""Models without a family of their own: cut behind the projector, with no record of their encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

import flowcut
from tests import tiny_generic
from tests.invariants import check_decoding, check_keeping_all, check_padded_batch
from tests.invariants import generate as generate_of
from tests.tiny_generic import IMAGE, KINDS

METHODS = ["random", "stride", "divprune"]
DECODERS = {"mistral3": "Mistral", "vipllava": "Llama", "ovis2": "Qwen2"}
"""Kinds whose language model can be cut inside."""
generate = partial(generate_of, placeholders=[IMAGE], tokens=5)


def cut_of(method: str, tokens: int) -> flowcut.CutConfig:
    return flowcut.Cut(method, tokens=tokens, **({"seed": 1} if method == "random" else {}))


def visual(kind: str) -> int:
    """Tokens of one picture."""
    return tiny_generic.pictures(kind, 1)[1][0]


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """While inside, the tokens that each pass of the decoder receives."""
    seen: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_changes_nothing_to_the_bit(kind: str) -> None:
    model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind, (2,))
    for cut in (None, cut_of("random", 1000)):
        session = check_keeping_all(model, inputs, cut, generate)
        assert session.record.unread is not None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_decoding_equals_one_pass_and_tokens_are_counted(kind: str, method: str) -> None:
    model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind)
    left = visual(kind) // 2
    cut = cut_of(method, left)
    with flowcut.prune(model, cut) as session, counted(model) as seen:
        generate(model, session.prepare(inputs))
    assert seen == [inputs["input_ids"].shape[1] - visual(kind) + left, 1, 1, 1, 1]
    if kind != "glm4v":  # positions of places do not count themselves: see below
        check_decoding(model, inputs, cut, generate)


@pytest.mark.parametrize("kind", KINDS)
def test_beams_and_sequences_of_a_batch_are_each_prompts_own(kind: str) -> None:
    """transformers repeats features by prompt: the borders of prompts must be found again after the cut."""
    model, per_prompt = tiny_generic.model(kind), (1, 2)
    batch = tiny_generic.inputs(kind, per_prompt)
    with flowcut.prune(model, cut_of("stride", visual(kind) // 2)) as session:
        together = generate(model, session.prepare(batch), num_beams=2, num_return_sequences=2)
        for row in range(2):
            own = tiny_generic.alone(kind, batch, per_prompt, row)
            beams = generate(model, session.prepare(own), num_beams=2, num_return_sequences=2)
            assert torch.equal(together.new[2 * row : 2 * row + 2], beams.new)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_reads_as_each_prompt_by_itself(kind: str) -> None:
    model, per_prompt = tiny_generic.model(kind), (1, 2)
    batch = tiny_generic.inputs(kind, per_prompt)
    alone = [tiny_generic.alone(kind, batch, per_prompt, row) for row in range(2)]
    check_padded_batch(model, batch, alone, cut_of("stride", visual(kind) // 2))


@pytest.mark.parametrize("kind", KINDS)
def test_several_pictures_share_the_budget_of_their_prompt(kind: str) -> None:
    model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind, (3,))
    cut = cut_of("random", visual(kind) + 1)
    with flowcut.prune(model, cut) as session, torch.no_grad():
        prepared = session.prepare(inputs)
        logits = model(**prepared).logits
    assert int((prepared["input_ids"] == IMAGE).sum()) == cut.tokens
    assert logits.shape[1] == prepared["input_ids"].shape[1]
    assert any("all visual tokens of a prompt together" in note for note in session.record.notes)
    assert session.final_patch_ids is not None
    assert len(session.final_patch_ids) == cut.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_kept_tokens_are_the_models_own_at_their_places(kind: str) -> None:
    model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind)
    ids = (0, visual(kind) - 1)
    with flowcut.prune(model) as session:
        whole = session.prepare(inputs)
        every = session.media[0].features
    with flowcut.prune(model, flowcut.Cut("chosen", tokens=2, patches=ids)) as session:
        prepared = session.prepare(inputs)
        assert torch.equal(session.media[0].features, every[list(ids)])
        assert session.final_patch_ids is not None
        assert session.final_patch_ids.tolist() == list(ids)
    assert whole["input_ids"].shape[1] - prepared["input_ids"].shape[1] == visual(kind) - 2


def test_positions_of_places_are_kept() -> None:
    """GLM-4V numbers visual tokens by row and column: those that stay have those of the full prompt."""
    model, inputs = tiny_generic.model("glm4v"), tiny_generic.inputs("glm4v")
    full = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )[0]
    with flowcut.prune(model, flowcut.Cut("chosen", tokens=2, patches=(1, 4))) as session:
        prepared = session.prepare(inputs)
    places = (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0]
    stays = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    stays[places] = torch.tensor([place in (1, 4) for place in range(6)])
    assert torch.equal(prepared["position_ids"][1:], full[:, :, stays])
    with pytest.raises(flowcut.InvalidCut, match="numbers visual tokens by their place"):
        flowcut.prune(model, flowcut.Cut("random", tokens=2, positions="renumbered"))


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "dart", "sparsevlm"])
@pytest.mark.parametrize("kind", DECODERS)
def test_cuts_inside_the_language_model_where_it_is_known(kind: str, method: str) -> None:
    model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind)
    left = visual(kind) // 2
    with flowcut.prune(model, flowcut.Cut(method, tokens=left)) as session:
        out = generate(model, session.prepare(inputs))
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert lengths[0] - lengths[-1] == visual(kind) - left
    assert session.language_record is not None
    check_decoding(model, inputs, flowcut.Cut(method, tokens=left), generate)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_says_why(kind: str) -> None:
    refused = flowcut.refusals(tiny_generic.model(kind))
    for name in ("flowcut", "visionzip", "cls-attention", "column-mean", "vispruner", "flowcut-single"):
        assert "looks into the vision encoder, which is not read in" in refused[name]
    assert not {"random", "stride", "divprune", "chosen"} & set(refused)
    assert ("fastv" in refused) == (kind not in DECODERS)
    assert "is not built for" in refused["downsample"]
    with pytest.raises(flowcut.InvalidCut, match="looks into the vision encoder"):
        flowcut.prune(tiny_generic.model(kind), flowcut.FlowCut(tokens=2))


def test_pictures_that_were_not_prepared_are_refused() -> None:
    for kind in KINDS:
        model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind)
        with (
            flowcut.prune(model, cut_of("random", 2)),
            pytest.raises(flowcut.FlowCutError, match="these pictures were not prepared"),
        ):
            model.generate(**inputs, max_new_tokens=1)


def test_prompts_that_do_not_fit_their_pictures() -> None:
    for kind in KINDS:
        model, inputs = tiny_generic.model(kind), tiny_generic.inputs(kind)
        inputs["input_ids"][0, -1] = IMAGE
        inputs.pop("mm_token_type_ids", None)
        with (
            flowcut.prune(model) as session,
            pytest.raises(flowcut.FlowCutError, match="image placeholders of the prompts do not match their pictures"),
        ):
            session.prepare(inputs)
