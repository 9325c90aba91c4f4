"""A CLS token among the tokens that the language model reads, as the released VisionZip hands it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.generation.ask import ask
from flowcut.models.loading import VisionLanguageModel
from tests import tiny, tiny_qwen
from tests.encoder.test_vision import run

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


def prepared(model: VisionLanguageModel, cut: flowcut.CutConfig) -> tuple[Any, Any, torch.Tensor]:
    """The session, the prompt, and what entered the projector."""
    entered: list[torch.Tensor] = []
    hook = model.model.model.multi_modal_projector.register_forward_pre_hook(
        lambda module, args: entered.append(args[0])
    )
    inputs = model.processor(images=tiny.picture(), text=f"<image>\n{QUESTION}", return_tensors="pt")
    with flowcut.prune(model.model, cut) as session:
        found = session.prepare(inputs)
    hook.remove()
    return session, found, entered[0]


def test_cls_is_the_first_of_the_tokens_and_no_patch(model: VisionLanguageModel) -> None:
    session, found, entered = prepared(model, flowcut.Cut("visionzip", tokens=20))
    assert entered.shape[:2] == (1, 20)
    assert int((found["input_ids"] == model.model.config.image_token_id).sum()) == 20
    medium = session.media[0]
    assert medium.sources[0].tolist() == [-1, -1]
    assert session.separator_tokens == 1
    patches = medium.sources[1:, 1].tolist()
    assert sorted(patches) == session.final_patch_ids.tolist() == session.record.kept_patch_ids[0].tolist()
    assert patches != sorted(patches)
    assert patches[:16] == sorted(patches[:16])  # round(20 * 54/64) = 17 dominant, CLS among them; then 3 merged
    assert any("first of the 20 tokens" in note and "19 patches" in note for note in session.record.notes)
    with torch.no_grad(), flowcut.record(model.model.model.vision_tower):
        whole = model.model.model.vision_tower(_pixels(model), output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(entered[0, 0], whole[0, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entered[0, 1:17], whole[0, 1 + torch.tensor(patches[:16])], atol=1e-5, rtol=1e-5)


def _pixels(model: VisionLanguageModel) -> torch.Tensor:
    found: torch.Tensor = model.processor.image_processor(tiny.picture(), return_tensors="pt")["pixel_values"]
    return found


def test_the_paper_hands_over_patches_alone(model: VisionLanguageModel) -> None:
    session, _, entered = prepared(model, flowcut.Cut("visionzip", tokens=20, variant="paper"))
    assert entered.shape[:2] == (1, 20)
    assert session.separator_tokens == 0
    patches = session.media[0].sources[:, 1].tolist()
    assert patches == sorted(patches) == session.final_patch_ids.tolist()
    assert any("hands the CLS token" in sentence for sentence in session.record.differs_from_release)


def test_counts_and_operations_are_those_of_all_tokens(model: VisionLanguageModel) -> None:
    official, paper = (
        ask(model, tiny.picture(), QUESTION, flowcut.Cut("visionzip", tokens=20, variant=variant), max_new_tokens=3)
        for variant in ("official", "paper")
    )
    assert official.visual_tokens == paper.visual_tokens == 20
    assert official.prompt_tokens == paper.prompt_tokens
    assert official.separator_tokens == 1
    assert any("first of the 20 tokens" in note for note in official.notes)
    assert not any("CLS" in note for note in paper.notes)
    assert official.flops.projector == paper.flops.projector
    assert official.final_patch_ids is not None
    assert len(official.final_patch_ids) == 19
    assert official.tower_tokens == paper.tower_tokens == 20
    assert official.record is not None
    assert not official.record.differs_from_release


def test_nothing_cut_hands_over_what_the_model_always_reads(model: VisionLanguageModel) -> None:
    session, _, entered = prepared(model, flowcut.Cut("visionzip", tokens=tiny.N_PATCHES))
    assert entered.shape[1] == tiny.N_PATCHES
    assert session.separator_tokens == 0
    assert any("Nothing was cut" in note for note in session.record.notes)


def test_a_single_token_is_a_patch(model: VisionLanguageModel) -> None:
    session, _, entered = prepared(model, flowcut.Cut("visionzip", tokens=1))
    assert entered.shape[1] == 1
    assert len(session.final_patch_ids) == 1
    assert any("a single token is a patch" in sentence for sentence in session.record.differs_from_release)


def test_its_tokens_cannot_keep_positions_that_they_never_had(model: VisionLanguageModel) -> None:
    with pytest.raises(flowcut.InvalidCut, match=r"hands CLS over.*variant paper"):
        prepared(model, flowcut.Cut("visionzip", tokens=20, positions="kept"))
    prepared(model, flowcut.Cut("visionzip", tokens=20, variant="paper", positions="kept"))


def test_towers_and_families_without_it_say_so(tmp_path: Path) -> None:
    next_model = flowcut.load(tiny.next_checkpoint(tmp_path))
    found = ask(next_model, tiny.picture(), QUESTION, flowcut.Cut("visionzip", tokens=40), max_new_tokens=2)
    assert found.record is not None
    assert any("hands on patches alone" in sentence for sentence in found.record.differs_from_release)


def test_several_pictures_of_one_prompt_each_have_theirs(model: VisionLanguageModel) -> None:
    inputs = model.processor(
        images=[tiny.picture(), tiny.picture()], text=f"<image><image>\n{QUESTION}", return_tensors="pt"
    )
    with flowcut.prune(model.model, flowcut.Cut("visionzip", tokens=20)) as session, torch.no_grad():
        found = session.prepare(inputs)
        logits = model.model(**found).logits
    assert session.separator_tokens == 2
    assert logits.shape[1] == found["input_ids"].shape[1]


@pytest.mark.parametrize("tokens", [2, 3, 63])
def test_a_tower_hands_over_as_many_rows_as_it_was_asked_for(tokens: int) -> None:
    record, out = run(tiny.clip(), tiny.pixels(2), flowcut.Cut("visionzip", tokens=tokens))
    assert out.hidden_states[-2].shape[1] == tokens
    assert record.kept_patch_ids.shape == (2, tokens - 1)
    assert record.steps[-1].kept_after == tokens - 1
    for flow in record.layers[5:]:
        np.testing.assert_array_equal(np.sort(flow.patch_ids, axis=1), record.kept_patch_ids)


def test_hiprune_looks_at_the_sixteenth_of_32_layers_where_there_are_windows() -> None:
    from flowcut.encoder.plan import EncoderPlan

    cut = flowcut.Cut("column-mean", tokens=9)
    for windows, middle in ((False, 11), (True, 15)):
        plan = EncoderPlan(cut, 32, 4, feature_layer=31, read_layer=31, flows=False, windows=windows)
        assert [layer for layer in range(32) if "middle_mean" in plan.looks(layer)] == [middle]
    for kind, windows in (("Qwen2VL", False), ("Qwen2_5_VL", True)):
        recording = flowcut.record(tiny_qwen.model(kind).model.visual, cut)
        assert recording.plan.windows == windows
