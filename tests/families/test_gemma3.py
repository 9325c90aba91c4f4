"""Gemma 3: squares of patches averaged into tokens that see each other both ways; crops of pan and scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flowcut
from flowcut.families import family_of
from tests import invariants, tiny, tiny_gemma
from tests.families.laws import CUTS, TwoWayLaws, model, processor

PAN_AND_SCAN = {
    "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 20, "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip


class TestGemma3(TwoWayLaws):
    kind = "Gemma3"

    @pytest.mark.parametrize("cut", [*CUTS, flowcut.Cut("random", tokens=7)], ids=lambda cut: cut.title)
    def test_squares_stay_whole_and_are_averaged(self, cut: Any) -> None:
        """The tokens, rebuilt from what left the tower: the mean of each square's patches, through the projector."""
        parts, left = self.model.model, []
        hook = parts.vision_tower.register_forward_hook(lambda m, a, out: left.append(out.last_hidden_state))
        with flowcut.prune(self.model, cut) as session, torch.no_grad():
            tokens = session.prepare(self.asked("@ what?"))["mm_encoder_outputs"]["image"].pooler_output[0]
        hook.remove()
        (medium,), kept = session.media, session.record.kept_patch_ids[0]
        patches = medium.source_patches[..., 1]
        row, column = patches // 16, patches % 16
        assert ((row // 4 == row[:, :1] // 4) & (column // 4 == column[:, :1] // 4)).all()
        assert (row[:, 0] // 4 * 4 + column[:, 0] // 4).tolist() == medium.places.tolist()
        projector = parts.multi_modal_projector
        where = torch.searchsorted(torch.tensor(kept), patches)
        with torch.no_grad():
            mean = left[0][0][where].mean(1)
            expected = projector.mm_soft_emb_norm(mean) @ projector.mm_input_projection_weight
        torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)

    def test_a_squares_score_is_the_mean_of_its_patches(self) -> None:
        with flowcut.prune(self.model, CUTS[0]) as session:
            session.prepare(self.asked("@ what?"))
        first = session.record.layers[0]
        squares = (first.patch_ids[0] // 16 // 4) * 4 + first.patch_ids[0] % 16 // 4
        for square in range(16):
            own = squares == square
            np.testing.assert_allclose(first.cumulative[0][own], first.score[0][own].mean(), rtol=1e-5)


@pytest.fixture(scope="module")
def panning() -> Any:
    """The processor as `flowcut.load` leaves it, with crops."""
    own = tiny_gemma.processor("Gemma3")
    family_of(model("Gemma3").config).complete_processor(own, model("Gemma3"))
    for name, value in PAN_AND_SCAN.items():
        setattr(own.image_processor, name, value)
    return own


def test_as_published_there_are_no_crops() -> None:
    own = tiny_gemma.processor("Gemma3")
    family = family_of(model("Gemma3").config)
    family.complete_processor(own, model("Gemma3"))
    assert len(family.geometries(model("Gemma3"), own.image_processor, (3000, 1000))) == 1
    inputs = own(images=[tiny.picture(0, (300, 60))], text=["<start_of_image>?"], return_tensors="pt")
    assert len(inputs["pixel_values"]) == 1


@pytest.mark.parametrize("size", [(300, 100), (61, 170), (100, 90), (333, 217), (400, 30)], ids=str)
def test_crops_lie_where_the_processor_puts_them(panning: Any, size: tuple[int, int]) -> None:
    pictures, rng = panning.image_processor, np.random.default_rng(0)
    geometries = family_of(model("Gemma3").config).geometries(model("Gemma3"), pictures, size)
    embedding = model("Gemma3").model.vision_tower.embeddings.patch_embedding
    for _ in range(3):
        paint = invariants.paint_of(rng, size)
        black, painted = (Image.new("RGB", size) for _ in range(2))
        painted.paste("white", paint)
        pixels = [pictures(images=[image], return_tensors="pt")["pixel_values"] for image in (black, painted)]
        assert len(pixels[0]) == len(geometries)
        with torch.no_grad():
            apart = embedding(pixels[0]) - embedding(pixels[1])
        for geometry, change in zip(geometries, apart, strict=True):
            invariants.check_paint(geometry, change.abs().amax(0).flatten().numpy() > 1e-6, paint)


def test_each_crop_is_cut_to_the_budget(panning: Any) -> None:
    inputs = panning(images=[tiny.picture(0, (300, 100))], text=["<start_of_image>what?"], return_tensors="pt")
    with flowcut.prune(model("Gemma3"), CUTS[0]) as session, torch.no_grad():
        model("Gemma3")(**session.prepare(inputs))
    assert [len(medium.features) for medium in session.media] == [7] * 4
    assert any("of each picture or crop" in note for note in session.record.notes)


def test_crops_asked_of_the_image_processor_are_asked_about(tmp_path: Any) -> None:
    loaded = flowcut.load(tiny_gemma.checkpoint("Gemma3", tmp_path))
    for name, value in PAN_AND_SCAN.items():
        setattr(loaded.processor.image_processor, name, value)
    run = flowcut.ask(loaded, tiny.picture(0, (300, 100)), "What?", CUTS[0], max_new_tokens=2)
    assert "crops to help you see better" in loaded.processor.tokenizer.decode(
        loaded.processor(images=tiny.picture(0, (300, 100)), text=run.prompt)["input_ids"][0]
    )
    assert run.visual_tokens == 4 * 7
    assert run.record is not None
    assert [one.view for one in run.record.geometries] == ["picture", "crop 1", "crop 2", "crop 3"]


def test_the_prompt_is_that_of_the_template() -> None:
    family, own = family_of(model("Gemma3").config), processor("Gemma3")
    start = "<bos><start_of_turn>user\n"
    end = "<start_of_image>Who?<end_of_turn>\n<start_of_turn>model\n"
    assert family.prompt(own, "Who?", None) == start + end
    assert family.prompt(own, "Who?", "Be brief.") == f"{start}Be brief.\n\n{end}"


def test_operations_by_hand(tmp_path: Any) -> None:
    """The projector's own matrix, and what a picture's tokens see ahead of them."""
    loaded = flowcut.load(tiny_gemma.checkpoint("Gemma3", tmp_path))
    run = flowcut.ask(loaded, tiny.picture(), "What?", CUTS[0], max_new_tokens=2)
    assert run.flops.projector == 7 * 2 * 32 * 32
    layers = loaded.model.model.language_model.layers
    linear = sum(2 * p.numel() for name, p in layers.named_parameters() if name.endswith("proj.weight"))
    pairs = run.prompt_tokens * (run.prompt_tokens + 1) // 2 + 7 * 6 // 2
    words = 2 * loaded.model.lm_head.weight.numel()
    assert run.flops.prefill == run.prompt_tokens * linear + 4 * (4.0 * 32) * pairs + words
