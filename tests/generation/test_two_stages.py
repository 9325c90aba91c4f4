"""Two cuts one after the other, before the language model and inside it: what may be said, and what must hold."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS
from flowcut.cut import cut_from_text
from flowcut.models.loading import VisionLanguageModel
from flowcut_lens.cli import main
from tests import invariants, tiny, tiny_video
from tests.families import test_frames as frames

QUESTION = "What is in the picture?"
FIRST = ["visionzip", "flowcut", "cls-attention", "random", "apet", "divprune", "holov", "downsample"]
SECOND = [name for name, method in METHODS.items() if method.stage == "decoder"]
generate = partial(invariants.generate, placeholders=(3,), tokens=5)


def both(first: str, second: str, tokens: int = 20, left: int = 7, **settings: Any) -> flowcut.CutConfig:
    return flowcut.Cut(first, tokens=tokens, then=flowcut.Cut(second, tokens=left), **settings)


def keeping_all(first: str, second: str) -> flowcut.CutConfig:
    """A second cut of no smaller budget, which nobody can ask for."""
    cut = both(first, second)
    object.__setattr__(cut.then, "tokens", 500)
    return cut


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


def asked(processor: Any, prompt: str) -> Any:
    pictures = [tiny.picture(seed) for seed in range(prompt.count("@"))]
    return processor(images=pictures, text=prompt.replace("@", "<image>"), return_tensors="pt")


def ask(model: VisionLanguageModel, cut: Any, **options: Any) -> flowcut.Run:
    return flowcut.ask(model, tiny.picture(), QUESTION, cut, **{"max_new_tokens": 4, **options})


def test_both_stages_are_named_and_read_back() -> None:
    cut = both("visionzip", "fastv", 128, 64)
    assert cut.title == "VisionZip 128 (official) + FastV 64"
    assert cut_from_text("visionzip:128+fastv:64") == cut
    assert cut_from_text("flowcut:9") == flowcut.FlowCut(tokens=9)
    written = json.loads(json.dumps(cut.as_dict()))
    assert flowcut.CutConfig(**written) == cut
    assert "then" not in flowcut.Cut("visionzip", tokens=128).as_dict()
    assert (cut.tokens, cut.tokens_left) == (128, 64)
    assert cut.stages == (flowcut.Cut("visionzip", tokens=128), flowcut.Cut("fastv", tokens=64))
    assert both("apet", "dart").differs == METHODS["apet"].differs + METHODS["dart"].differs
    kept = both("visionzip", "pyramiddrop", positions="kept")
    assert [one.positions for one in kept.stages] == ["kept", "kept"]


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("fastv", flowcut.Cut("dart", tokens=5), "FastV cuts in the language model already"),
        ("visionzip", flowcut.Cut("fastv", tokens=20), "keeps 20 tokens of 20: choose 1 to 19"),
        ("visionzip", flowcut.Cut("divprune", tokens=5), "DivPrune cuts behind the projector, and the second cut"),
        ("visionzip", flowcut.FlowCut(tokens=5), "FlowCut cuts in the vision encoder, and the second cut"),
        ("visionzip", both("visionzip", "fastv", 9, 5), "then is a cut of two stages"),
        ("visionzip", flowcut.Cut("fastv", tokens=5, positions="kept"), "say positions once"),
        ("visionzip", "fastv:5", "then is a str: give a cut"),
    ],
)
def test_what_cannot_follow(first: str, second: Any, sentence: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        flowcut.Cut(first, tokens=20, then=second)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["visionzip", "visionzip:9+fastv", "visionzip:9+fastv:5+dart:2", "a b:3", ""])
def test_words_that_name_no_cut(text: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=r"write METHOD:TOKENS, or two such as visionzip:128\+fastv:64"):
        cut_from_text(text)


def test_a_part_of_a_model_takes_one_cut() -> None:
    with pytest.raises(flowcut.InvalidCut, match="cuts in two parts of a model: give it to"):
        flowcut.record(tiny.clip(), both("visionzip", "fastv"))
    with pytest.raises(flowcut.InvalidCut, match="cuts in two parts of a model: give it to"):
        flowcut.record_language(tiny.llava().model.language_model, (3, 12), both("visionzip", "fastv"))


def test_families_that_do_not_allow_a_stage() -> None:
    with pytest.raises(flowcut.InvalidCut, match="FlowCut cuts LLaVA-NeXT in its language model too"):
        flowcut.prune(tiny.llava_next(), both("flowcut", "fastv"))
    with pytest.raises(flowcut.InvalidCut, match="DivPrune cuts behind the projector, and that is not built for LLaVA"):
        flowcut.prune(tiny.llava_next(), both("divprune", "fastv"))
    with pytest.raises(
        flowcut.InvalidCut, match="FastV cuts in the language model, and that is not built for LLaVA-On"
    ):
        flowcut.prune(tiny_video.model("LlavaOnevision"), both("cls-attention", "fastv"))


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_a_second_cut_that_keeps_all_changes_nothing_to_the_bit(first: str, second: str) -> None:
    model, processor = tiny.llava(), tiny.processor()
    inputs = asked(processor, "@ what is it?")
    logits, written = [], []
    for cut in (flowcut.Cut(first, tokens=20), keeping_all(first, second)):
        with flowcut.prune(model, cut) as session, torch.no_grad():
            logits.append(model(**session.prepare(inputs)).logits)
            written.append(generate(model, session.prepare(inputs)).sequences)
    assert torch.equal(*logits)
    assert torch.equal(*written)
    assert session.language_record is not None
    assert session.language_record.ranking is None
    assert any("Nothing was cut in the language model" in note for note in session.language_record.notes)


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", ["visionzip", "holov", "downsample"])
def test_decoding_equals_a_full_cut_prefill(first: str, second: str) -> None:
    model, inputs = tiny.llava(), asked(tiny.processor(), "@ what is it?")
    invariants.check_decoding(model, inputs, both(first, second), generate)


@pytest.mark.parametrize("positions", [None, "kept", "renumbered"])
@pytest.mark.parametrize(
    ("first", "second"), [("cls-attention", "fastv"), ("otprune", "pyramiddrop"), ("scope", "dart")]
)
def test_it_is_the_one_cut_and_then_the_other(first: str, second: str, positions: Any) -> None:
    """The second cut by hand, on the prompt that the first one leaves."""
    model, inputs = tiny.llava(), asked(tiny.processor(), "@ what is it?")
    alone = flowcut.Cut(first, tokens=20, positions=positions)
    with flowcut.prune(model, alone) as session, torch.no_grad():
        prepared = session.prepare(inputs)
        start = int((prepared["input_ids"][0] == 3).nonzero()[0])
        inside = flowcut.Cut(second, tokens=7, positions=positions)
        with flowcut.record_language(model.model.language_model, (start, 20), inside) as by_hand:
            expected = model(**prepared).logits
    with flowcut.prune(model, both(first, second, positions=positions)) as session, torch.no_grad():
        found = model(**session.prepare(inputs)).logits
    assert torch.equal(found, expected)
    told = session.language_record
    assert told is not None
    np.testing.assert_array_equal(told.kept_visual_ids, by_hand.record.kept_visual_ids)
    np.testing.assert_array_equal(told.positions_after, by_hand.record.positions_after)


@pytest.mark.parametrize(("first", "second"), [("cls-attention", "fastv"), ("flowcut", "dart"), ("holov", "priortr")])
def test_tokens_patches_and_ranking(model: VisionLanguageModel, first: str, second: str) -> None:
    run, alone = ask(model, both(first, second)), ask(model, flowcut.Cut(first, tokens=20))
    text = run.prompt_tokens - 20
    assert run.visual_tokens == 20
    assert run.layer_tokens == (text + 20, text + 7)
    assert run.kv_bytes[0] > run.kv_bytes[1]
    assert run.final_patch_ids is not None
    assert alone.final_patch_ids is not None
    assert run.language_record is not None
    np.testing.assert_array_equal(run.final_patch_ids, alone.final_patch_ids[run.language_record.kept(0)])
    assert run.ranking is not None
    best = np.argsort(-run.ranking, kind="stable")
    np.testing.assert_array_equal(np.sort(best[:7]), run.final_patch_ids)
    np.testing.assert_array_equal(np.sort(best[:20]), alone.final_patch_ids)
    bare = ask(model, both(first, second), record=False)
    assert bare.token_ids == run.token_ids
    np.testing.assert_array_equal(bare.ranking, run.ranking)


def test_records_say_what_was_done_in_the_other_part(model: VisionLanguageModel, tmp_path: Path) -> None:
    run = ask(model, both("apet", "priortr"))
    record, told = run.record, run.language_record
    assert record is not None
    assert told is not None
    assert (record.cut, told.cut) == (flowcut.Cut("apet", tokens=20), flowcut.Cut("priortr", tokens=7))
    assert "A second cut follows in the language model: PriorTR 7." in record.notes
    assert "A first cut was made in the vision encoder: ApET 20." in told.notes
    assert record.differs_from_release == METHODS["apet"].differs
    assert told.differs_from_release == METHODS["priortr"].differs
    assert run.title == "ApET 20 + PriorTR 7"
    read = flowcut.load_run(flowcut.save_run(run, tiny.picture(), tmp_path))
    assert (read.cut, read.id) == (run.cut, run.id)
    assert read.id != ask(model, flowcut.Cut("apet", tokens=20)).id


def test_studies_take_it_like_any_cut(model: VisionLanguageModel) -> None:
    picture, cut = tiny.picture(), both("cls-attention", "fastv")
    full = flowcut.ask(model, picture, QUESTION, max_new_tokens=3)
    (result,) = flowcut.compare_methods(model, picture, QUESTION, full, [cut])
    assert result.run is not None
    assert result.logprobs is not None
    (point,) = flowcut.sweep(model, picture, QUESTION, full.token_ids, [cut])
    assert point.logprob == pytest.approx(float(result.logprobs.sum()), abs=1e-4)
    (ranked,) = flowcut.rank_patches(model, picture, QUESTION, [cut])
    np.testing.assert_array_equal(ranked.ranking, result.run.ranking)
    with pytest.raises(flowcut.InvalidCut, match=r"that of one cut, and CLS attention 20 .* are two: leave then out"):
        next(flowcut.smallest_budget(model, picture, QUESTION, full.token_ids, cut))


def test_several_pictures_and_padded_prompts() -> None:
    model, processor, cut = tiny.llava(), tiny.processor(), both("visionzip", "fastv")
    invariants.check_decoding(model, asked(processor, "@ and @ differ?"), cut, generate)
    prompts, pictures = ["@ what?", "a longer prompt with @ in it"], [tiny.picture(0), tiny.picture(1)]
    texts = [prompt.replace("@", "<image>") for prompt in prompts]
    together = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    pairs = zip(pictures, texts, strict=True)
    alone = [processor(images=one, text=text, return_tensors="pt") for one, text in pairs]
    with flowcut.prune(model, both("holov", "priortr")) as session, torch.no_grad():
        last = model(**session.prepare(together)).logits[:, -1]
        for row, one in enumerate(alone):
            torch.testing.assert_close(last[row], model(**session.prepare(one)).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_tiles_and_frames() -> None:
    model, inputs = tiny.llava_next(), asked(tiny.next_processor(), "@ what is it?")
    cut = both("visionzip", "fastv", 40, 12)
    invariants.check_decoding(model, inputs, cut, generate)
    with flowcut.prune(model, cut) as session, torch.no_grad():
        model(**session.prepare(inputs))
    assert session.language_record is not None
    assert session.language_record.kept_visual_ids.shape == (1, 12)
    model, inputs = tiny_video.model("VideoLlava"), frames.asked(tiny_video.processor("VideoLlava"), "@ what?")
    invariants.check_decoding(model, inputs, both("scope", "dart", 30, 9), frames.generate)


def test_a_video_is_cut_twice() -> None:
    model, inputs = tiny_video.model("VideoLlava"), frames.asked(tiny_video.processor("VideoLlava"), "@ what?")
    cut = both("evs", "fastv", 70, 9)
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        model(**session.prepare(inputs))
    cls = session.separator_tokens
    assert seen == [int((inputs["input_ids"] != tiny_video.VIDEO).sum()) + 70 + cls]
    assert session.language_record is not None
    kept = session.language_record.kept(0)
    assert len(kept) == 9
    assert session.media[0].sources[1 + kept].min() >= 0  # tokens of patches; the first CLS token is no candidate


def test_a_cls_token_that_the_first_cut_hands_over_stays(model: VisionLanguageModel) -> None:
    run = ask(model, both("visionzip", "fastv"))
    text = run.prompt_tokens - 20
    assert run.layer_tokens == (text + 20, text + 7 + 1)
    assert run.record is not None
    assert any("the second one does not count it" in note for note in run.record.notes)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture, model = tmp_path / "cat.png", str(tiny.checkpoint(tmp_path / "model"))
    tiny.picture().save(picture)
    options = ["--model", model, "--max-new-tokens", "3", "--json", "--quiet"]
    first = ["ask", str(picture), "What?", "--method", "visionzip", "--tokens", "20"]
    assert main.main([*first, "--then", "fastv:7", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["title"] == "VisionZip 20 (official) + FastV 7"
    assert facts["cut"]["then"]["method"] == "fastv"
    assert len(facts["final_patch_ids"]) == 7
    assert (
        main.main(["compare", str(picture), "What?", "--tokens", "20", "--also", "visionzip:20+dart:7", *options]) == 0
    )
    last = json.loads(capsys.readouterr().out)["methods"][-1]
    assert last["title"] == "VisionZip 20 (official) + DART 7 (official)"
    assert last["then"]["tokens"] == 7
    assert len(last["kept_patch_ids"]) == 7
    for wrong in (["--then", "fastv:20"], ["--then", "fastv"], ["--method", "full", "--then", "fastv:7"]):
        assert main.main([*first, *wrong, *options]) == 2
        assert capsys.readouterr().err.count("\n") == 1
