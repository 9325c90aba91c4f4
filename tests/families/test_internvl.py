"""InternVL alone: its published tiles, its prompt, and feature layers other than the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.families import FAMILIES, family_of
from tests import invariants, tiny, tiny_shuffle


@pytest.mark.parametrize(
    ("size", "views"),
    [((448, 448), 1), ((800, 600), 13), ((4000, 300), 13), ((300, 900), 4), ((1, 1), 1), ((1344, 896), 7)],
    ids=str,
)
def test_the_tiles_of_the_published_processor(size: tuple[int, int], views: int) -> None:
    """448 px, at most 12 tiles; their number is the processor's own count."""
    processor = tiny_shuffle.processor("InternVL3")
    pictures = processor.image_processor
    pictures.size = {"height": 448, "width": 448}
    own = pictures.get_number_of_image_patches(size[1], size[0], {"crop_to_patches": True})
    geometries = FAMILIES["internvl"].geometries(tiny_shuffle.model("InternVL3"), pictures, size)
    assert len(geometries) == own == views
    boxes = np.array([geometry.seen_box() for geometry in geometries])
    np.testing.assert_allclose(boxes[:, 2:].max(0), size, rtol=0.02)
    assert geometries[-1].view == ("picture" if views == 1 else "thumbnail")


def test_the_prompt_is_the_published_templates() -> None:
    processor = tiny_shuffle.processor("InternVL3")
    family = FAMILIES["internvl"]
    assert family.prompt(processor, "Who?", None) == (
        "<|im_start|>user\n<IMG_CONTEXT>\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert family.prompt(processor, "Who?", "Be brief.").startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert "<video>\nWho?" in family.prompt(processor, "Who?", None, family.media[1])
    processor.chat_template = None
    assert family.prompt(processor, "Who?", None).count("<IMG_CONTEXT>\nWho?") == 1


@pytest.mark.parametrize("layer", [-2, 4])
def test_another_feature_layer(layer: int) -> None:
    """A model that reads an earlier layer is cut before it; a method may look behind it."""
    model = tiny_shuffle.model("InternVL3", vision_feature_layer=layer)
    processor = tiny_shuffle.processor("InternVL3")
    inputs = processor(images=[tiny.picture(0, (100, 80))], text=["<IMG_CONTEXT> what?"], return_tensors="pt")
    with torch.no_grad(), flowcut.prune(model) as session:
        assert torch.equal(model(**session.prepare(inputs)).logits, model(**inputs).logits)
    for cut in (flowcut.FlowCut(17), flowcut.Cut("cls-attention", tokens=17, layer=5)):
        with torch.no_grad(), flowcut.prune(model, cut) as session:
            prepared = session.prepare(inputs)
            assert torch.isfinite(model(**prepared).logits).all()
        assert session.record.feature_layer == (4 if layer == -2 else 3)
        assert int((prepared["input_ids"] == tiny_shuffle.image_id("InternVL3")).sum()) == 17


def test_recorded_as_a_bare_tower() -> None:
    """Without the model around it nobody knows of squares: single patches are cut."""
    tower = tiny_shuffle.model("InternVL3").model.vision_tower
    with torch.no_grad(), flowcut.record(tower, flowcut.FlowCut(tokens=9)) as rec:
        out = tower(tiny.pixels(2))
    assert out.last_hidden_state.shape == (2, 10, 32)
    assert rec.record.kept_patch_ids.shape == (2, 9)
    assert (rec.record.relay, rec.record.patches_per_token) == ("cls", 1)


def test_pictures_without_gaps_in_the_prompt_are_refused() -> None:
    model: Any = tiny_shuffle.model("InternVL3")
    place, family = tiny_shuffle.image_id("InternVL3"), family_of(tiny_shuffle.model("InternVL3").config)
    ids = torch.tensor([[9] + [place] * 24 + [9] + [place] * 8 + [9]])
    with flowcut.prune(model) as session, pytest.raises(flowcut.FlowCutError, match="2 tiles that need 16 each = 32"):
        session.prepare({"input_ids": ids, "pixel_values": tiny.pixels(2)})
    assert family.name == "InternVL"


@pytest.mark.parametrize("kind", tiny_shuffle.INTERN)
@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
def test_decoding_after_a_cut_in_the_decoder(kind: str, method: str) -> None:
    """Qwen2's and Qwen3's: the cached answer is that of one pass over prompt and answer, cut alike."""
    model, processor = tiny_shuffle.model(kind), tiny_shuffle.processor(kind)
    pictures = [tiny.picture(seed, (100, 80)) for seed in range(2)]
    inputs = processor(images=pictures, text=["<IMG_CONTEXT> or <IMG_CONTEXT> what?"], return_tensors="pt")
    with torch.no_grad(), flowcut.prune(model, flowcut.Cut(method, tokens=17)) as session:
        prepared = session.prepare(inputs)
        out = invariants.generate(model, prepared, (tiny_shuffle.image_id(kind),), 5)
        again = invariants.all_at_once(session.prepare(inputs), out.sequences)
        whole = model(**again, use_cache=False).logits
    torch.testing.assert_close(whole[:, -6:-1], torch.stack(out.logits, dim=1), atol=1e-5, rtol=1e-5)
    assert session.language_record is not None
    assert session.language_record.kept_visual_ids.shape == (2, 17)
    assert session.final_patch_ids is not None
    assert len(session.final_patch_ids) % 4 == 0
