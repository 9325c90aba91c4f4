"""LLaVA-OneVision: tiles through SigLIP, pooled; what each token is made of; stock generate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

import flowcut
from flowcut.families import family_of
from flowcut.families.processors import pictures_only
from tests import invariants, tiny
from tests.encoder.test_proxy import siglip

SIDE, PATCH, IMAGE, VIDEO = 48, 6, tiny.SPECIAL.index("<image>"), 256 + len(tiny.SPECIAL)
GRIDS = [[SIDE * rows, SIDE * cols] for rows in range(1, 5) for cols in range(1, 5)]
CUT = flowcut.FlowCut(tokens=17)
SIZES = [(100, 80), (300, 60), (45, 190), (40, 37)]
SHAPES = [(96, 96), (400, 100), (100, 400), (1000, 100), (100, 1000), (9, 7), (1, 1), (333, 217), (57, 290), (640, 480),
          (29, 700)]  # fmt: skip


def build() -> Any:
    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=VIDEO + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, video_token_index=VIDEO,
        image_grid_pinpoints=GRIDS, vision_aspect_ratio="anyres_max_4",
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    tiny.sharpen(model.model.vision_tower, 3.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def build_processor() -> Any:
    pictures = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRIDS)
    return pictures_only(LlavaOnevisionProcessor)(
        pictures, tiny.processor().tokenizer, num_image_tokens=(SIDE // PATCH) ** 2, vision_aspect_ratio="anyres_max_4",
        vision_feature_select_strategy="full",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


def asked(processor: Any, *prompts: str, first: int = 0, side: str = "left") -> Any:
    """Prompts with `@` for each picture; pictures of unequal sizes, those of one prompt in a list."""
    processor.tokenizer.padding_side = side
    images, seed = [], first
    for prompt in prompts:
        images.append([tiny.picture(s, SIZES[s % 4]) for s in range(seed, seed + prompt.count("@"))])
        seed += len(images[-1])
    texts = [prompt.replace("@", "<image>") for prompt in prompts]
    return processor(images=images, text=texts, return_tensors="pt", padding=True)


generate = partial(invariants.generate, placeholders=(IMAGE, VIDEO), tokens=6)


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=5000)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize(
    "prompts",
    [["@ what?", "a longer one with @ in it"], ["@ or @?"], ["@ or @?", "one @"]],
    ids=["tiled", "several", "padded"],
)
def test_keeping_all_is_the_stock_answer_to_the_bit(
    model: Any, processor: Any, cut: Any, options: dict, prompts: list[str]
) -> None:
    session = invariants.check_keeping_all(model, asked(processor, *prompts), cut, generate, **options)
    assert session.record.relay == "proxy"


@pytest.mark.parametrize("prompt", ["@ what?", "one @ and two @ differ?"])
@pytest.mark.parametrize(
    "cut", [CUT, flowcut.Cut("stride", tokens=17), flowcut.Cut("cls-attention", tokens=17)], ids=lambda cut: cut.title
)
def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any, prompt: str, cut: Any) -> None:
    invariants.check_decoding(model, asked(processor, prompt), cut, generate)


@pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
@pytest.mark.parametrize("tokens", [5, 17, 60, 120])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_language_model_receives_the_budget(
    model: Any, processor: Any, method: str, tokens: int, first: int
) -> None:
    inputs = asked(processor, "@ what?", first=first)
    cut = flowcut.Cut(method, tokens=tokens)
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        model(**session.prepare(inputs))
    assert seen == [int((inputs["input_ids"] != IMAGE).sum()) + tokens]
    (sources,) = session.media
    assert len(sources.source_patches) == tokens
    torch.testing.assert_close(sources.shares.sum(1), torch.ones(tokens))
    for row, patch in sources.source_patches.view(-1, 2).tolist():
        assert row == -1 or patch in session.record.image(row).kept_patch_ids[0]


def test_a_single_tile_keeps_its_newline(model: Any, processor: Any) -> None:
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(asked(processor, "@ or @?"))
    assert (prepared["input_ids"] == IMAGE).sum() == 2 * (17 + 1)
    assert [float(sources.shares[-1].sum()) for sources in session.media] == [0.0, 0.0]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_token_is_the_mix_of_patches_it_says(model: Any, processor: Any, first: int) -> None:
    """The stock layout of the projected patches, rebuilt from the sources alone, unpooled and pooled."""
    inputs, projected = asked(processor, "@ what?", first=first), []
    hook = model.model.multi_modal_projector.register_forward_hook(lambda m, a, output: projected.append(output))
    with flowcut.prune(model) as session:
        tokens = session.prepare(inputs)["mm_encoder_outputs"]["image"].pooler_output[0]
    hook.remove()
    (sources,) = session.media
    rows, patches = sources.source_patches.clamp_min(0).unbind(-1)
    mixed = (projected[0][rows, patches] * sources.shares[..., None]).sum(1)
    newline = sources.shares.sum(1) == 0
    torch.testing.assert_close(tokens[~newline], mixed[~newline], atol=1e-4, rtol=1e-4)
    assert torch.equal(tokens[newline], model.model.image_newline.expand(int(newline.sum()), -1))
    pooled = (sources.shares > 0).sum(1).max()
    assert pooled == (4 if first == 0 else 1)


def test_the_highest_scores_reach_the_language_model(model: Any, processor: Any) -> None:
    with flowcut.prune(model, CUT) as session:
        session.prepare(asked(processor, "@ what?", first=1))  # not pooled: a token is a patch
    record, (sources,) = session.record, session.media
    kept, left = [], []
    for row in range(record.batch):
        own = record.image(row)
        last = [flow for flow in own.layers if flow.scored][-1]
        stays = last.margin[0] >= 0
        scores = dict(zip(last.patch_ids[0][stays].tolist(), last.cumulative[0][stays].tolist(), strict=True))
        chosen = set(sources.source_patches[:, 0][sources.source_patches[:, 0, 0] == row][:, 1].tolist())
        kept += [score for patch, score in scores.items() if patch in chosen]
        if row == 0:  # the base tile has no padding, so that all of its survivors were candidates
            left += [score for patch, score in scores.items() if patch not in chosen]
    assert len(kept) == 17
    assert not left or max(left) <= min(kept)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_reads_as_each_alone(model: Any, processor: Any, side: str) -> None:
    prompts = ["@ what?", "one rather longer prompt, and then @ is?"]
    together = asked(processor, *prompts, side=side)
    alone = [asked(processor, prompt, first=row) for row, prompt in enumerate(prompts)]
    invariants.check_padded_batch(model, together, alone, CUT)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_patches(model: Any, processor: Any, size: tuple[int, int]) -> None:
    """In every tile, the patches that change are those whose boxes the paint, or its blur, reaches."""
    geometries = family_of(model.config).geometries(model, processor.image_processor, size)
    rng = np.random.default_rng(0)
    for _ in range(3):
        paint = invariants.paint_of(rng, size)
        black, painted = (Image.new("RGB", size) for _ in range(2))
        painted.paste("white", paint)
        pixels = [
            processor.image_processor(images=[i], return_tensors="pt")["pixel_values"][0] for i in (black, painted)
        ]
        assert len(pixels[0]) == len(geometries)
        embedding = model.model.vision_tower.embeddings.patch_embedding
        with torch.no_grad():
            apart = embedding(pixels[0]) - embedding(pixels[1])
        for geometry, change in zip(geometries, apart, strict=True):
            invariants.check_paint(geometry, change.abs().amax(0).flatten().numpy() > 1e-6, paint)


def test_recorded_inside_the_whole_model(model: Any) -> None:
    pixel_values = tiny.pixels(2)
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        model.model.vision_tower(pixel_values)
    bare = siglip()
    bare.load_state_dict(model.model.vision_tower.state_dict(), strict=False)
    with torch.no_grad(), flowcut.record(bare, flowcut.FlowCut(tokens=9)) as alone:
        bare(pixel_values)
    np.testing.assert_array_equal(rec.record.kept_patch_ids, alone.record.kept_patch_ids)


def test_asked_from_a_folder(model: Any, processor: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    from tests import tiny_video  # which builds on this module

    tiny_video.processor("LlavaOnevision").save_pretrained(tmp_path)
    loaded, image = flowcut.load(tmp_path), tiny.picture(0, SIZES[0])
    whole = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
    inputs = processor(images=[image], text=[whole.prompt], return_tensors="pt")
    stock = generate(loaded.model, inputs, max_new_tokens=5, eos_token_id=2).new[0]
    assert [token.id for token in whole.tokens] == stock.tolist()
    run = flowcut.ask(loaded, image, "What is it?", CUT, max_new_tokens=5)
    assert run.visual_tokens == 17
    assert run.record is not None
    assert len(run.record.geometries) == run.record.batch
    assert any("left the tower" in note for note in run.record.notes)
    with pytest.raises(flowcut.InvalidCut, match="sees this picture as"):
        flowcut.ask(loaded, image, "What is it?", flowcut.FlowCut(tokens=4000))


def test_inputs_that_do_not_belong_together(model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ what?")
    with flowcut.prune(model, CUT) as session:
        with pytest.raises(flowcut.FlowCutError, match="image placeholders"):
            session.prepare({**inputs, "input_ids": inputs["input_ids"][:, 5:]})
        with pytest.raises(flowcut.FlowCutError, match="image_sizes is missing"):
            session.prepare({name: value for name, value in inputs.items() if name != "image_sizes"})
        with pytest.raises(flowcut.FlowCutError, match="one kind at a time"):
            session.prepare({**inputs, "pixel_values_videos": inputs["pixel_values"]})
        with pytest.raises(flowcut.FlowCutError, match="need up to 7 tiles"):
            session.prepare({**inputs, "pixel_values": inputs["pixel_values"][:, :2]})


def test_a_picture_of_more_tiles_than_the_grid_allows(model: Any) -> None:
    """The processor may have been told of larger grids than the model."""
    processor = build_processor()
    processor.image_processor.image_grid_pinpoints = [[SIDE * 6, SIDE]]
    inputs = processor(images=[tiny.picture(0, (40, 240))], text=["<image> what?"], return_tensors="pt")
    with flowcut.prune(model, CUT) as session, pytest.raises(flowcut.FlowCutError, match="placeholders"):
        session.prepare(inputs)
