"""LLaVA-NeXT: tiles in the tower, one more cut in the decoder, with the real processor classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.image_utils import PILImageResampling

import flowcut
from flowcut.families.llava_next import LlavaNext
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.store import load_run, save_run
from flowcut_lens.cli import main
from tests import tiny
from tests.decoder.test_language import hooks_of

IMAGE = tiny.SPECIAL.index("<image>")
CUT = flowcut.FlowCut(tokens=40)
ALONE = flowcut.FlowCut(tokens=40, per_image=True)
ANSWER = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
SIZES = [(90, 50), (50, 120), (48, 48), (200, 40)]
"""Width and height: crops 2 x 2, 1 x 2 (and 3), 2, and 3 side by side."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava_next()


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny.next_processor()


def asked(processor: Any, *prompts: str, sizes: list[tuple[int, int]] | None = None) -> Any:
    count = sum(prompt.count("<image>") for prompt in prompts)
    images = [tiny.picture(seed, size) for seed, size in zip(range(count), sizes or SIZES, strict=False)]
    return processor(images=images, text=list(prompts), return_tensors="pt", padding=True)


def generate(model: Any, inputs: Any, **options: Any) -> Any:
    out = model.generate(**inputs, **{**ANSWER, **options}, return_dict_in_generate=True, output_logits=True)
    return out.sequences[:, inputs["input_ids"].shape[1] :], out


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=320), flowcut.FlowCut(tokens=320, variant="paper")])
def test_keeping_all_is_the_stock_model_to_the_bit(model: Any, processor: Any, cut: Any) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", "A longer prompt before <image> and after it.")
    options = {"num_beams": 2 if cut is None else 1}
    with torch.no_grad():
        stock, logits = generate(model, inputs, **options)[0], model(**inputs).logits
        before = hooks_of(model)  # transformers' own, which come with the first run and stay
        with flowcut.prune(model, cut) as session:
            assert torch.equal(model(**session.prepare(inputs)).logits, logits)
            assert torch.equal(generate(model, session.prepare(inputs), **options)[0], stock)
    assert hooks_of(model) == before
    assert model.model.language_model.config._attn_implementation == "sdpa"
    assert model.model.vision_tower.config._attn_implementation == "sdpa"


def test_nothing_is_left_after_an_exception(model: Any, processor: Any) -> None:
    before = hooks_of(model)
    inputs = asked(processor, "<image> what")
    with pytest.raises(flowcut.FlowCutError, match="no input_ids"), flowcut.prune(model, CUT) as session:
        session.prepare({"pixel_values": inputs["pixel_values"], "image_sizes": inputs["image_sizes"]})
    assert hooks_of(model) == before


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_each_stage_keeps_its_share(model: Any, processor: Any, variant: str) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", sizes=[(90, 50)])
    with flowcut.prune(model, flowcut.FlowCut(40, variant)) as session:
        prepared = session.prepare(inputs)
        _, out = generate(model, prepared)
    record, language = session.record, session.language_record
    assert language is not None
    each = 20 if variant == "official" else 16
    assert record.kept_patch_ids.shape == (5, each)
    separators = session.media[0].separators
    assert (separators > 0) == (variant == "paper")
    prefill_hook = int((prepared["input_ids"] == IMAGE).sum())
    assert prefill_hook == len(session.media[0].features) == language.spans[0, 1]
    assert 40 < prefill_hook <= 5 * each + separators
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(4)]
    assert lengths[0] == lengths[1] == prepared["input_ids"].shape[1] + 4
    assert lengths[2] == lengths[3] == lengths[0] - prefill_hook + 40
    assert language.sources is not None
    np.testing.assert_array_equal(language.sources[0], session.media[0].sources)
    for tile, patch in language.sources[0].tolist():
        assert (tile, patch) == (-1, -1) or patch in record.kept_patch_ids[tile]


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_decoding_equals_a_full_cut_prefill(model: Any, processor: Any, variant: str) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", "Of <image> and <image> the first is which of the two?")
    with flowcut.prune(model, flowcut.FlowCut(40, variant)) as session, torch.no_grad():
        prepared = session.prepare(inputs)
        _, out = generate(model, prepared)
        mask = torch.nn.functional.pad(prepared["attention_mask"], (0, 5), value=1)
        again = {**prepared, "input_ids": out.sequences, "attention_mask": mask}
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        whole = model(**again, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(whole[:, -6:-1], torch.stack(out.logits, dim=1), atol=1e-5, rtol=1e-5)


def test_beams_equal_beams_without_a_cache(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", "A longer prompt before <image> and after it.")
    with flowcut.prune(model, CUT) as session:
        options = {"num_beams": 3, "output_scores": True}
        cached = generate(model, session.prepare(inputs), **options)[1]
        assert session.language_record is not None
        assert session.language_record.kept_visual_ids.shape == (2, 40)
        whole = generate(model, session.prepare(inputs), use_cache=False, **options)[1]
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(cached.sequences_scores, whole.sequences_scores, atol=1e-5, rtol=1e-5)


def test_a_padded_batch_of_unequal_pictures_answers_as_each_alone(model: Any, processor: Any) -> None:
    prompts = ["<image>\nWhat?", "A longer prompt before <image> and after it.", "<image> here", "and <image> there"]
    with flowcut.prune(model, ALONE) as session:
        inputs = asked(processor, *prompts)
        together, out = generate(model, session.prepare(inputs))
        record, language = session.record, session.language_record
        assert language is not None
        first = 0
        for index, prompt in enumerate(prompts):
            image = tiny.picture(index, SIZES[index])
            tokens, alone = generate(model, session.prepare(processor(images=image, text=prompt, return_tensors="pt")))
            tiles = session.record.batch
            kept = record.kept_patch_ids[first : first + tiles]
            np.testing.assert_array_equal(session.record.kept_patch_ids, kept)
            assert session.language_record is not None
            np.testing.assert_array_equal(session.language_record.kept(0), language.kept(index))
            for one, many in zip(alone.logits, out.logits, strict=True):
                torch.testing.assert_close(one[0], many[index], atol=1e-4, rtol=1e-4)
            assert torch.equal(tokens[0], together[index])
            first += tiles
    assert first == record.batch
    assert any("left padding" in sentence for sentence in language.differs_from_release)


def test_as_released_the_tiles_of_a_batch_lose_the_same_number(model: Any, processor: Any) -> None:
    with flowcut.prune(model, CUT) as session:
        session.prepare(asked(processor, "<image> and <image>"))
    for step in session.record.steps:
        assert len(set(step.kept_after_per_image)) == 1
        if not step.clamped:
            assert step.requested == round(float(step.requested_per_image.max()))


def test_several_pictures_in_one_prompt(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image><image> then <image>: which?")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        generate(model, prepared)
    language = session.language_record
    assert language is not None
    assert language.span_prompt.tolist() == [0, 0, 0]
    counts = [len(picture.features) for picture in session.media]
    assert language.spans[:, 1].tolist() == counts
    assert language.spans[1, 0] == language.spans[0].sum()
    assert (prepared["input_ids"] == IMAGE).sum() == sum(counts)
    assert language.rows_after.shape[1] == prepared["input_ids"].shape[1] - sum(counts) + sum(
        min(n, 40) for n in counts
    )
    assert any("several pictures" in sentence for sentence in language.differs_from_release)


def test_a_picture_in_the_second_turn(model: Any, processor: Any) -> None:
    turns = "USER: hello ASSISTANT: hello to you. USER: <image>\nWhat is it? ASSISTANT:"
    inputs = asked(processor, turns)
    with flowcut.prune(model, CUT) as session, torch.no_grad():
        prepared = session.prepare(inputs)
        _, out = generate(model, prepared)
        language = session.language_record
        whole = model(**{**prepared, "input_ids": out.sequences, "attention_mask": None}, use_cache=False).logits
    assert language is not None
    assert prepared["input_ids"][0, language.spans[0, 0] - 1] != IMAGE
    assert (prepared["input_ids"][0, language.spans[0, 0] : language.spans[0].sum()] == IMAGE).all()
    torch.testing.assert_close(whole[:, -6:-1], torch.stack(out.logits, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["random", "stride", "cls-attention"])
def test_controls_share_the_budget_by_tiles(model: Any, processor: Any, method: str) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", sizes=[(90, 90)])
    with flowcut.prune(model, flowcut.Cut(method, tokens=42)) as session:
        prepared = session.prepare(inputs)
        _, out = generate(model, prepared)
    assert session.record.kept_patch_ids.shape == (5, 8)
    assert (prepared["input_ids"] == IMAGE).sum() == 40
    assert session.language_record is None
    assert len({out.past_key_values.get_seq_length(layer) for layer in range(4)}) == 1


ASPECTS = [
    (48, 48), (96, 96), (192, 48), (48, 192), (480, 48), (48, 480), (7, 5), (33, 97), (101, 75), (333, 250), (90, 50),
    (640, 479),
]  # fmt: skip


@pytest.mark.parametrize("size", ASPECTS, ids=str)
def test_painted_patches_lie_where_geometry_says(model: Any, size: tuple[int, int]) -> None:
    """A black picture with one white square: the patches of all tiles that change are those whose boxes overlap it."""
    image_processor = tiny.next_processor(resample=PILImageResampling.NEAREST).image_processor
    geometries = LlavaNext().geometries(model, image_processor, size)
    black = image_processor(Image.new("RGB", size), return_tensors="np")["pixel_values"][0]
    assert len(geometries) == len(black)
    width, height = size
    rng = np.random.default_rng(0)
    for _ in range(6):
        side_x, side_y = (max(1, int(edge * rng.uniform(0.05, 0.4))) for edge in size)
        x, y = int(rng.integers(0, width - side_x + 1)), int(rng.integers(0, height - side_y + 1))
        image = Image.new("RGB", size)
        image.paste("white", (x, y, x + side_x, y + side_y))
        painted = image_processor(image, return_tensors="np")["pixel_values"][0]
        for geometry, before, after in zip(geometries, black, painted, strict=True):
            rows, patch = geometry.grid_rows, geometry.patch
            changed = (before != after).any(axis=0).reshape(rows, patch, -1, patch).any(axis=(1, 3)).ravel()
            boxes = geometry.boxes()
            pixel = np.array([width / geometry.resized_width, height / geometry.resized_height])
            low = np.maximum(boxes[:, :2], [x, y])
            overlap = (np.minimum(boxes[:, 2:], [x + side_x, y + side_y]) - low) / pixel  # in the input's pixels
            assert not changed[(overlap <= 0).any(axis=1)].any(), geometry.view
            assert changed[(overlap >= 1).all(axis=1)].all(), geometry.view


def test_tiles_are_named_and_cover_the_picture(model: Any, processor: Any) -> None:
    geometries = LlavaNext().geometries(model, processor.image_processor, (90, 50))
    names = [geometry.view for geometry in geometries]
    crops = [f"crop row {row}, column {column}" for row in (1, 2) for column in (1, 2)]
    assert names == ["base", *crops]
    assert geometries[0].seen_box() == pytest.approx((0, 0, 90, 50))
    seen = np.array([geometry.seen_box() for geometry in geometries[1:]])
    assert seen[:, :2].min(axis=0) == pytest.approx((0, 0))
    assert seen[:, 2:].max(axis=0) == pytest.approx((90, 50))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.next_checkpoint(tmp_path_factory.mktemp("next")))


def test_ask_counts_what_every_layer_reads(loaded: VisionLanguageModel, tmp_path: Path) -> None:
    image = tiny.picture(size=(90, 50))
    run = flowcut.ask(loaded, image, "What is it?", CUT, max_new_tokens=4, answer_attention=True)
    assert run.family == "LLaVA-NeXT"
    assert run.tower_tokens == 5 * 20
    assert run.separator_tokens == 0
    assert run.language_record is not None
    assert run.visual_tokens == run.language_record.spans[0, 1]
    text = run.prompt_tokens - run.visual_tokens
    assert run.layer_tokens == (run.prompt_tokens,) * 2 + (text + 40,) * 2
    per_token = 2 * 2 * 8 * 4
    assert run.kv_bytes == tuple((n + len(run.tokens) - 1) * per_token for n in run.layer_tokens)
    assert run.record is not None
    assert [geometry.view for geometry in run.record.geometries][:2] == ["base", "crop row 1, column 1"]
    assert run.record.image(3).batch == 1
    assert run.answer_attention is not None
    reached = ~np.isnan(run.answer_attention.visual[0, :, 0])
    assert reached.sum(axis=1).tolist() == [run.visual_tokens] * 2 + [40] * 2
    np.testing.assert_array_equal(np.flatnonzero(reached[3]), run.language_record.kept(0))
    kept = load_run(save_run(run, None, tmp_path))
    assert kept.language_record is not None
    np.testing.assert_array_equal(kept.language_record.kept_visual_ids, run.language_record.kept_visual_ids)
    assert kept.layer_tokens == run.layer_tokens
    assert kept.record is not None
    assert kept.record.geometries == run.record.geometries


def test_ask_without_a_cut_is_stock_generate(loaded: VisionLanguageModel) -> None:
    image = tiny.picture(size=(90, 50))
    run = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
    inputs = loaded.processor(images=image, text=run.prompt, return_tensors="pt")
    out: Any = loaded.model
    ids = out.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in run.tokens] == ids.tolist()
    assert run.separator_tokens > 0
    assert run.visual_tokens == int((inputs["input_ids"] == IMAGE).sum())
    assert run.language_record is None


def test_the_command_line_writes_masks_of_base_and_crops(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tiny.next_checkpoint(tmp_path_factory.mktemp("cli"))
    tiny.picture(size=(90, 50)).save(tmp_path / "cat.png")
    out = tmp_path / "run"
    options = ["--model", str(folder), "--tokens", "40", "--max-new-tokens", "2", "--out", str(out)]
    assert main.main(["ask", str(tmp_path / "cat.png"), "What?", *options]) == 0
    capsys.readouterr()
    for name in ("mask.png", "mask-base.png"):
        assert Image.open(out / name).size == (90, 50)
    assert (out / "language.safetensors").is_file()
    assert load_run(out).language_record is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("cut", "more"),
    [
        (None, 0),
        (CUT, 0.005),
        (flowcut.Cut("cls-attention", tokens=40), 0.001),
        (flowcut.Cut("fastv", tokens=40), 0.001),
    ],
)
def test_flops_are_what_torch_counts(loaded: VisionLanguageModel, cut: Any, more: float, size: tuple[int, int]) -> None:
    """Over all tiles and both cuts, attention included; as for LLaVA in `tests/generation/test_run.py`.

    torch counts all n * n pairs of the decoder's causal attention: the masked ones are added here. With a cut it also
    counts the products of scoring, at most `more` of all.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run = flowcut.ask(loaded, tiny.picture(size=size), "What is it?", cut, record=False, max_new_tokens=4)
    width = 4 * 8  # heads of the decoder, and the width of each
    ours = run.flops.total + 4 * width * sum(n * (n - 1) / 2 for n in run.layer_tokens)
    assert ours <= counter.get_total_flops() <= (1 + more) * ours
    parts = {name.rsplit(".", 1)[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    assert parts["LlavaNextMultiModalProjector"] == run.flops.projector
    assert cut is not None or parts["CLIPVisionModel"] == run.flops.vision


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (flowcut.FlowCut(tokens=1), r"tokens is 1.*choose at least 2"),
        (flowcut.FlowCut(tokens=2, variant="paper"), r"5 tiles: choose at least 3"),
        (flowcut.Cut("random", tokens=4), r"5 tiles: choose at least 5"),
    ],
)
def test_budgets_too_small_for_the_tiles(model: Any, processor: Any, cut: Any, sentence: str) -> None:
    inputs = asked(processor, "<image> what", sizes=[(90, 50)])
    with flowcut.prune(model, cut) as session, pytest.raises(flowcut.InvalidCut, match=sentence):
        session.prepare(inputs)


def test_tiles_and_sizes_that_do_not_match(model: Any, processor: Any) -> None:
    inputs = dict(asked(processor, "<image> what", sizes=[(90, 50)]))
    wrong = [
        ({"image_sizes": None}, "image_sizes is missing"),
        ({"pixel_values": inputs["pixel_values"][:, :3]}, r"\[5\] tiles"),
        ({"pixel_values": inputs["pixel_values"][0, :4]}, r"\[5\] tiles"),
        ({"input_ids": inputs["input_ids"][:, 1:]}, "write <image> once"),
    ]
    with flowcut.prune(model, CUT) as session:
        for change, sentence in wrong:
            with pytest.raises(flowcut.FlowCutError, match=sentence):
                session.prepare({**inputs, **change})
        first = session.prepare(inputs)
        second = session.prepare({**inputs, "pixel_values": inputs["pixel_values"][0]})  # tiles in one row
    assert torch.equal(first["input_ids"], second["input_ids"])


def test_a_budget_above_all_patches_is_told(loaded: VisionLanguageModel) -> None:
    with pytest.raises(flowcut.InvalidCut, match=r"as 320 patches"):
        flowcut.ask(loaded, tiny.picture(), "What?", flowcut.FlowCut(tokens=321))
