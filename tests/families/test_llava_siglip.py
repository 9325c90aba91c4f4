"""LLaVA with a SigLIP tower: no CLS token, and what becomes of a configuration that drops one all the same."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

import flowcut
from tests import invariants, tiny, tiny_gemma
from tests.families.laws import CUTS, Laws, generate


class TestLlavaSiglip(Laws):
    kind = "Llava"


class TestLlavaSiglipEarlier(Laws):
    """The last layer but one is read."""

    kind = "Llava"
    fields: ClassVar[dict[str, Any]] = {"vision_feature_layer": -2}


@pytest.fixture(scope="module")
def dropping() -> Any:
    return tiny_gemma.model("Llava", vision_feature_select_strategy="default")


class TestLlavaSiglipDropping:
    """The stock model drops the first patch as if it were CLS."""

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    def test_keeping_all_is_the_stock_answer_to_the_bit(self, dropping: Any, options: dict) -> None:
        session = invariants.check_keeping_all(dropping, self.asked("@ or @?"), None, generate, **options)
        assert any("drops the first patch" in note for note in session.record.notes)

    @pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.title}{'-each' * cut.per_image}")
    def test_decoding_after_the_cut_equals_a_full_prefill(self, dropping: Any, cut: Any) -> None:
        invariants.check_decoding(dropping, self.asked("@ what?"), cut, generate)

    def test_the_first_patch_alone_is_not_read(self, dropping: Any) -> None:
        """Of those kept with it and without it."""
        chosen = {(0, 9, 17): [9, 17], (3, 9, 17): [3, 9, 17]}
        for patches, read in chosen.items():
            cut = flowcut.Cut("chosen", tokens=3, patches=patches)
            with flowcut.prune(dropping, cut) as session, torch.no_grad():
                prepared = session.prepare(self.asked("@ what?"))
            (medium,) = session.media
            assert medium.sources[:, 1].tolist() == read
            assert medium.places.tolist() == [patch - 1 for patch in read]
            assert (prepared["input_ids"] == tiny_gemma.IMAGE).sum() == len(read)
            assert session.record.kept_patch_ids[0].tolist() == list(patches)

    def asked(self, prompt: str) -> Any:
        own = tiny_gemma.processor("Llava")
        own.vision_feature_select_strategy = "default"
        images = [tiny.picture(seed) for seed in range(prompt.count("@"))]
        return own(images=[images], text=[prompt.replace("@", "<image>")], return_tensors="pt")
