"""ask: the answer, its tokens, its numbers; streaming and stopping."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import flowcut
from flowcut.criteria import METHODS
from flowcut.generation.flops import tokens_by_layer
from flowcut.models.loading import VisionLanguageModel
from tests import tiny

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


def stock(model: VisionLanguageModel, prompt: str, **options: Any) -> Any:
    """The stock way, with processor and generate alone."""
    inputs = model.processor(images=tiny.picture(), text=prompt, return_tensors="pt")
    out = model.model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **options)
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack(out.logits, 1)[0]


def ask(model: VisionLanguageModel, cut: Any = None, **options: Any) -> flowcut.Run:
    return flowcut.ask(model, tiny.picture(), QUESTION, cut, **{"max_new_tokens": 12, **options})


def test_without_a_cut_it_is_stock_generate(model: VisionLanguageModel) -> None:
    run = ask(model)
    tokens, logits = stock(model, f"USER: <image>\n{QUESTION} ASSISTANT:", max_new_tokens=12, do_sample=False)
    assert [token.id for token in run.tokens] == tokens
    expected = logits.log_softmax(-1)
    for step, token in enumerate(run.tokens):
        assert token.logprob == pytest.approx(float(expected[step, token.id]), abs=1e-4)
        best = expected[step].topk(6).indices.tolist()
        assert [other for other, _, _ in token.runners_up] == [i for i in best if i != token.id][:5]


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=9)], ids=["whole", "cut"])
def test_sampling_is_its_seed(model: VisionLanguageModel, cut: Any) -> None:
    options = {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
    one, two, other = (ask(model, cut, seed=seed, **options) for seed in (5, 5, 6))
    assert [t.id for t in one.tokens] == [t.id for t in two.tokens]
    assert [t.id for t in one.tokens] != [t.id for t in other.tokens]
    if cut is None:
        torch.manual_seed(5)
        tokens, _ = stock(model, one.prompt, max_new_tokens=12, **options)
        assert [t.id for t in one.tokens] == tokens


@pytest.mark.parametrize(
    ("own", "asked", "told"),
    [
        ({}, {}, None),
        ({"do_sample": True}, {}, "ask for sampling; this answer is greedy, with one beam"),
        ({"do_sample": True}, {"do_sample": True, "seed": 1}, None),
        ({"num_beams": 3}, {}, "ask for 3 beams; this answer is greedy"),
        ({"do_sample": True, "num_beams": 3}, {"do_sample": True, "seed": 1}, "for 3 beams; this answer is sampled"),
        ({"do_sample": True, "num_beams": 3}, {}, "ask for sampling and 3 beams"),
    ],
)
def test_what_the_checkpoint_asks_for_and_does_not_get_is_noted(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, own: Any, asked: Any, told: str | None
) -> None:
    for name, value in own.items():
        monkeypatch.setattr(model.model.generation_config, name, value)
    notes = [note for note in ask(model, max_new_tokens=2, **asked).notes if "generation settings" in note]
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]


def test_a_seed_leaves_the_process_its_own_chance(model: VisionLanguageModel) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    ask(model, do_sample=True, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_the_numbers_of_a_run(model: VisionLanguageModel) -> None:
    run = ask(model, flowcut.FlowCut(tokens=9))
    assert run.visual_tokens == 9
    text_tokens = run.prompt_tokens - 9
    assert text_tokens == ask(model).prompt_tokens - tiny.N_PATCHES
    cached = run.prompt_tokens + len(run.tokens) - 1
    assert run.kv_bytes == (cached * 2 * 2 * 8 * 4,) * 2  # keys and values, 2 heads of width 8, float32, 2 layers
    assert (run.peak_memory_bytes is not None) == (sys.platform == "linux")
    assert all(seconds >= 0 for seconds in vars(run.times).values())
    assert run.times.unassigned is not None
    assert run.times.runs == 1
    assert run.times.total == pytest.approx(sum(run.times.stages().values()))
    assert "unassigned" not in run.times.stages()
    assert run.times.vision > 0
    assert run.times.prefill > 0
    assert run.image_size == (60, 52)
    assert run.title == "FlowCut 9 (official)"
    assert run.answer == "".join(token.text for token in run.tokens).strip()
    assert run.record is not None
    assert run.record.geometry is not None
    assert run.record.model_id == model.id


def test_the_tokens_of_each_vision_layer(model: VisionLanguageModel) -> None:
    run = ask(model, flowcut.FlowCut(tokens=9))
    assert run.record is not None
    counts = tokens_by_layer(run.record)
    assert (counts[0], counts[-1]) == (65, 10)
    assert counts == [flow.patch_ids.shape[1] + 1 for flow in run.record.layers]


def test_no_wall_time_is_lost(model: VisionLanguageModel) -> None:
    """Stages, recording and what belongs to none are all the time there is, but for putting the result together."""
    began = time.perf_counter()
    times = ask(model, flowcut.FlowCut(tokens=9), answer_attention=True).times
    wall = time.perf_counter() - began
    assert times.unassigned is not None
    assert 0.5 * wall < times.total + times.recording + times.unassigned <= wall


def test_pruning_alone_answers_the_same(model: VisionLanguageModel) -> None:
    cut = flowcut.FlowCut(tokens=9)
    with_record, without = ask(model, cut), ask(model, cut, record=False)
    assert without.record is None
    assert without.times.recording == 0
    assert [t.id for t in without.tokens] == [t.id for t in with_record.tokens]
    assert without.flops == with_record.flops


def test_text_and_progress_arrive_as_they_come(model: VisionLanguageModel) -> None:
    texts: list[str] = []
    stages: list[tuple[str, float]] = []
    run = ask(model, on_text=texts.append, on_progress=lambda stage, part: stages.append((stage, part)))
    assert len(texts) == len(run.tokens)
    assert texts[-1].strip() == run.answer.rstrip("\ufffd")  # half a character is not shown while more may come
    assert not any(text.endswith("\ufffd") for text in texts)
    assert list(dict.fromkeys(stage for stage, _ in stages)) == ["picture", "vision", "prefill", "decode"]
    assert all(0 <= part <= 1 for _, part in stages)


def test_stop_works_within_one_token(model: VisionLanguageModel) -> None:
    stop, heard = threading.Event(), []

    def on_text(text: str) -> None:
        heard.append(text)
        if len(heard) == 3:
            stop.set()

    run = ask(model, on_text=on_text, stop=stop)
    assert run.stopped
    assert len(run.tokens) == 3
    assert not ask(model, stop=lambda: False).stopped


def test_stopped_before_its_first_token(model: VisionLanguageModel) -> None:
    run = ask(model, flowcut.FlowCut(tokens=9), stop=lambda: True)
    assert run.stopped
    assert (run.answer, run.tokens, run.kv_bytes) == ("", (), ())
    assert run.visual_tokens == 9
    assert run.record is not None


def test_an_exception_in_a_callback_leaves_the_model_whole(model: VisionLanguageModel) -> None:
    before = ask(model)
    with pytest.raises(ZeroDivisionError):
        ask(model, flowcut.FlowCut(tokens=9), on_text=lambda text: 1 / 0)
    assert not model.model._forward_hooks
    assert not model.model.model.language_model._forward_pre_hooks
    assert [t.id for t in ask(model).tokens] == [t.id for t in before.tokens]


def test_people_who_share_a_model_wait_for_each_other(model: VisionLanguageModel) -> None:
    cuts = [None, flowcut.FlowCut(tokens=9), flowcut.Cut("random", tokens=9), flowcut.FlowCut(tokens=20)]
    expected = [[t.id for t in ask(model, cut).tokens] for cut in cuts]
    found: dict[int, Any] = {}

    def work(place: int) -> None:
        found[place] = [t.id for t in ask(model, cuts[place]).tokens]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(cuts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(len(cuts))] == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cut": flowcut.FlowCut(tokens=65)}, r"tokens is 65.*as 64 patches: choose 1 to 64"),
        ({"cut": "flowcut"}, r"cut is a str"),
        ({"cut": flowcut.Cut("cls-attention", tokens=9, layer=6)}, r"layer is 6"),
        ({"max_new_tokens": 0}, r"max_new_tokens is 0"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens is 1\.5"),
        ({"max_new_tokens": 10_000}, r"this model takes 512"),
        ({"temperature": 0.0, "do_sample": True}, r"temperature is 0\.0"),
        ({"temperature": float("nan"), "do_sample": True}, r"temperature is nan"),
        ({"temperature": "hot", "do_sample": True}, r"temperature is 'hot'"),
        ({"top_p": 1.5, "do_sample": True}, r"top_p is 1\.5"),
        ({"seed": -1, "do_sample": True}, r"seed is -1"),
        ({"system": " "}, r"system prompt is empty"),
    ],
)
def test_settings_that_cannot_be_used(model: VisionLanguageModel, options: dict, sentence: str) -> None:
    with pytest.raises(flowcut.FlowCutError, match=sentence):
        ask(model, **options)


@pytest.mark.parametrize("question", ["", "  ", "a" * 20_000, "x" * 600, None])
def test_questions_that_cannot_be_put(model: VisionLanguageModel, question: Any) -> None:
    with pytest.raises(flowcut.InvalidQuestion):
        flowcut.ask(model, tiny.picture(), question, max_new_tokens=3)


@pytest.mark.parametrize("question", ["ما هذا؟", "🙂🙃", "<b>what</b>?", "line\nbreak", "what\x00is"])
def test_odd_questions_are_answered(model: VisionLanguageModel, question: str) -> None:
    assert flowcut.ask(model, tiny.picture(), question, max_new_tokens=3).tokens


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=9)], ids=["whole", "cut"])
def test_a_placeholder_in_the_question_adds_no_picture(model: VisionLanguageModel, cut: Any) -> None:
    run = flowcut.ask(model, tiny.picture(), "<image> <image> what</s>?", cut, max_new_tokens=3)
    assert run.visual_tokens == (tiny.N_PATCHES if cut is None else 9)
    assert run.question == "<image> <image> what</s>?"
    assert any("plain text" in note for note in run.notes)
    assert run.record is not None
    assert set(run.notes) <= set(run.record.notes)


@pytest.mark.parametrize("size", [(1, 1), (500, 12), (48, 48), (2000, 1500)])
def test_pictures_of_any_size(model: VisionLanguageModel, size: tuple[int, int]) -> None:
    run = flowcut.ask(model, tiny.picture().resize(size), QUESTION, flowcut.FlowCut(tokens=9), max_new_tokens=2)
    assert run.image_size == size
    assert run.record is not None
    assert run.record.geometry is not None
    left, top, right, bottom = run.record.geometry.seen_box()
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def test_bad_pictures_do_not_reach_the_model(model: VisionLanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(flowcut.InvalidPicture):
        flowcut.ask(model, tmp_path / "a.png", QUESTION)


def test_the_embedded_model_answers() -> None:
    model = flowcut.load("embedded")
    assert (model.n_patches, model.processor.image_processor.crop_size["height"]) == (576, 336)
    run = flowcut.ask(model, tiny.picture(size=(400, 300)), QUESTION, flowcut.FlowCut(tokens=64), max_new_tokens=4)
    assert run.visual_tokens == 64
    assert run.revision is not None
    inputs = model.processor(images=tiny.picture(size=(400, 300)), text=run.prompt, return_tensors="pt")
    own = model.model.generate(
        **inputs, max_new_tokens=4, do_sample=False
    )[0, inputs["input_ids"].shape[1] :].tolist()  # fmt: skip
    whole = flowcut.ask(model, tiny.picture(size=(400, 300)), QUESTION, max_new_tokens=4)
    assert [token.id for token in whole.tokens] == own


@pytest.mark.parametrize("method", ["flowcut", "random", "cls-attention"])
def test_a_run_says_what_it_kept_and_how_it_ranked(model: VisionLanguageModel, method: str) -> None:
    run = ask(model, flowcut.Cut(method, tokens=9), record=False, max_new_tokens=1)
    assert run.final_patch_ids is not None
    assert run.ranking is not None
    assert (run.final_patch_ids.dtype, run.ranking.dtype) == (np.int64, np.float32)
    assert run.ranking.shape == (tiny.N_PATCHES,)
    strongest = np.sort(np.argsort(-run.ranking, kind="stable")[:9])
    np.testing.assert_array_equal(run.final_patch_ids, strongest)


def test_the_first_that_flowcut_drops_rank_lowest(model: VisionLanguageModel) -> None:
    run = ask(model, flowcut.FlowCut(tokens=9), max_new_tokens=1)
    assert run.record is not None
    assert run.ranking is not None
    pruned_at = run.record.pruned_at_layer[0]
    when = np.where(pruned_at < 0, 99, pruned_at)[np.argsort(run.ranking)]
    assert (np.diff(when) >= 0).all()
    gone = np.flatnonzero(pruned_at == run.record.steps[0].layer)
    scores = run.record.layers[run.record.steps[0].layer].cumulative
    assert scores is not None
    assert (np.diff(scores[0][gone[np.argsort(run.ranking[gone])]]) >= 0).all()


def test_chosen_patches_are_those_of_a_method_that_chose_them(model: VisionLanguageModel) -> None:
    by_attention = ask(model, flowcut.Cut("cls-attention", tokens=9))
    assert by_attention.final_patch_ids is not None
    ids = by_attention.final_patch_ids.tolist()
    chosen = ask(model, flowcut.Cut("chosen", tokens=9, patches=ids))
    assert [t.id for t in chosen.tokens] == [t.id for t in by_attention.tokens]
    assert chosen.final_patch_ids is not None
    assert chosen.final_patch_ids.tolist() == ids
    assert chosen.ranking is None
    whole = ask(model)
    assert whole.ranking is None
    assert whole.final_patch_ids is not None
    assert len(whole.final_patch_ids) == tiny.N_PATCHES


@pytest.fixture(scope="module")
def embedded() -> VisionLanguageModel:
    return flowcut.load("embedded")


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].takes_patches])
def test_the_embedded_model_with_every_method(embedded: VisionLanguageModel, method: str) -> None:
    cut, reasons = flowcut.Cut(method, tokens=64), flowcut.refusals(embedded)
    if method in reasons:
        with pytest.raises(flowcut.InvalidCut, match="takes none" if METHODS[method].of_videos else "text tower"):
            flowcut.ask(embedded, tiny.picture(size=(400, 300)), QUESTION, cut)
        return
    run = flowcut.ask(embedded, tiny.picture(size=(400, 300)), QUESTION, cut, max_new_tokens=3, record=False)
    stage, text = METHODS[method].stage, run.prompt_tokens - run.visual_tokens
    assert run.visual_tokens == (576 if stage == "decoder" else 64)
    assert run.layer_tokens[-1] == text + 64
    assert (run.final_patch_ids is None) == (stage == "picture")
    assert (run.ranking is None) == (not METHODS[method].ranks)
    if run.final_patch_ids is not None:
        assert len(run.final_patch_ids) == 64 - run.separator_tokens
        assert run.separator_tokens == (1 if METHODS[method].hands_cls else 0)
        assert (np.diff(run.final_patch_ids) > 0).all()
    if run.ranking is not None:
        assert run.ranking.shape == (576,)
        count = 64 - run.separator_tokens
        np.testing.assert_array_equal(np.sort(np.argsort(-run.ranking, kind="stable")[:count]), run.final_patch_ids)


def test_settings_are_one_object_or_single_names(model: VisionLanguageModel) -> None:
    settings = flowcut.Generation(max_new_tokens=3, do_sample=True, temperature=0.7, seed=4, system=None)
    grouped, single = ask(model, settings=settings, max_new_tokens=3), ask(model, **asdict(settings))
    assert grouped.id == single.id
    assert flowcut.Generation.from_facts(grouped.generation) == settings
    assert len(ask(model, settings=settings, max_new_tokens=2).tokens) == 2
    with pytest.raises(TypeError, match="top_k"):
        ask(model, top_k=5)


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"max_new_tokens": True}, {"temperature": 0}, {"top_p": 1.5}, {"seed": 2**63}]
)
def test_settings_are_checked_without_a_model(wrong: dict[str, Any]) -> None:
    with pytest.raises(flowcut.FlowCutError, match=f"^{next(iter(wrong))} is .*"):
        flowcut.Generation(**wrong)


@pytest.mark.parametrize(
    ("cut", "more"),
    [
        (None, 0),
        (flowcut.FlowCut(tokens=9), 0.005),
        (flowcut.Cut("fastv", tokens=9), 0.001),
        (flowcut.Cut("cls-attention", tokens=30, then=flowcut.Cut("fastv", tokens=9)), 0.005),
    ],
)
def test_flops_are_what_torch_counts(model: VisionLanguageModel, cut: Any, more: float) -> None:
    """torch counts every matrix product and convolution that is carried out, each multiply-add as two, as ours does.

    It counts all n * n pairs of the decoder's causal attention, ours the n * (n + 1) / 2 that are not masked: the
    others are added here, and a run without a cut is then equal to the last operation. With a cut, torch also counts
    the products of scoring, which ours leaves out: at most `more` of all. Attention is carried out as plain products,
    since torch does not count its fused kernel on a CPU; nothing is recorded, since the recording has its own.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run = ask(model, cut, record=False)
    width = 4 * 8  # heads of the decoder, and the width of each
    masked = 4 * width * sum(n * (n - 1) / 2 for n in run.layer_tokens)
    ours = run.flops.total + masked
    assert ours <= counter.get_total_flops() <= (1 + more) * ours
    parts = {name.rsplit(".", 1)[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    assert parts["LlavaMultiModalProjector"] == run.flops.projector
    if cut is None:
        assert parts["CLIPVisionModel"] == run.flops.vision
