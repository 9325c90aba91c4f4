"""Asking a model without a family of its own: runs, records and files say what is missing; nothing is invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Florence2Config, MllamaConfig

import flowcut
from flowcut.encoder.unrecorded import token_grid
from flowcut.families import family_of
from flowcut.records.store import load_run, save_run
from flowcut.records.unread import NO_PLACES
from flowcut.studies.scorer import AnswerScorer
from flowcut_lens.cli.main import main
from tests import tiny, tiny_generic

MADE = {
    "cropped": tiny_generic.vipllava_checkpoint,
    "stretched": tiny_generic.stretched_checkpoint,
    "any size": tiny_generic.mistral3_checkpoint,
}
GRIDS = {"cropped": None, "stretched": (8, 8), "any size": (6, 8)}
PICTURE = tiny.picture(size=(120, 90))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {kind: flowcut.load(make(tmp_path_factory.mktemp("generic"))) for kind, make in MADE.items()}


@pytest.mark.parametrize("kind", MADE)
def test_a_run_says_what_is_missing(loaded: dict[str, Any], kind: str, tmp_path: Path) -> None:
    run = flowcut.ask(loaded[kind], PICTURE, "What?", flowcut.Cut("divprune", tokens=7), max_new_tokens=3)
    assert run.visual_tokens == 7
    record = run.record
    assert record is not None
    assert record.unread is not None
    assert record.unread in run.notes
    assert (record.layers, record.n_layers, record.relay) == ((), 0, "none")
    assert run.final_patch_ids is not None
    assert run.ranking is not None
    assert len(run.ranking) == record.n_patches
    assert run.flops.vision > 0
    assert (record.geometry is None) == (NO_PLACES in run.notes) == (GRIDS[kind] is None)
    if record.geometry is not None:
        assert (record.geometry.grid_rows, record.geometry.grid_cols) == GRIDS[kind]
        assert record.geometry.seen_box() == (0, 0, 120, 90)
    assert ("<img" in run._repr_html_()) == (record.geometry is not None)
    again = load_run(save_run(run, PICTURE, tmp_path))
    assert again.id == run.id
    assert again.record is not None
    assert again.record.unread == record.unread
    np.testing.assert_array_equal(again.record.kept_patch_ids, record.kept_patch_ids)


@pytest.mark.parametrize("kind", MADE)
def test_the_answer_to_the_whole_picture_is_the_stock_one(loaded: dict[str, Any], kind: str) -> None:
    model = loaded[kind]
    run = flowcut.ask(model, PICTURE, "What?", max_new_tokens=6)
    inputs = model.processor(images=PICTURE, text=run.prompt, return_tensors="pt")
    stock = model.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert run.token_ids == stock[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("method", ["random", "stride", "divprune", "fastv"])
@pytest.mark.parametrize("kind", MADE)
def test_a_cut_is_scored_as_it_is_answered(loaded: dict[str, Any], kind: str, method: str) -> None:
    cut = flowcut.Cut(method, tokens=7)
    if (kind, method) == ("any size", "fastv"):  # Mistral 3 ends each row of patches with a token of text
        with pytest.raises(flowcut.InvalidCut, match="puts text between the visual tokens of one picture"):
            flowcut.ask(loaded[kind], PICTURE, "What?", cut)
        return
    run = flowcut.ask(loaded[kind], PICTURE, "What?", cut, max_new_tokens=4)
    scorer = AnswerScorer(loaded[kind], PICTURE, "What?", run.token_ids)
    scores = scorer.score_cut(cut)
    assert not scorer.takes_patches
    with pytest.raises(flowcut.FlowCutError, match="does not read one token for each patch of one grid"):
        scorer.score([[0, 1]])
    np.testing.assert_allclose(scores.logprobs[0], [token.logprob for token in run.tokens], atol=1e-4)


def test_files_and_comparisons_of_the_command_line(
    loaded: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURE.save(tmp_path / "picture.png")
    for kind in MADE:
        out = tmp_path / kind
        question = [str(tmp_path / "picture.png"), "What?", "--model", loaded[kind].id, "--max-new-tokens", "2"]
        assert main(["ask", *question, "--method", "random", "--tokens", "7", "--out", str(out), "--quiet"]) == 0
        assert (out / "mask.png").exists() == (GRIDS[kind] is not None)
        assert "is not read: there is no record of it" in capsys.readouterr().err
    assert main(["compare", *question, "--tokens", "7", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "FlowCut looks into the vision encoder, which is not read in Mistral3 (generic) models" in told
    assert "The vision encoder of Mistral3ForConditionalGeneration is not read" in told


def test_a_budget_above_what_a_picture_has(loaded: dict[str, Any]) -> None:
    with pytest.raises(flowcut.InvalidCut, match="sees this picture as 64 tokens: choose 1 to 64"):
        flowcut.ask(loaded["cropped"], PICTURE, "What?", flowcut.Cut("random", tokens=65))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MllamaConfig(), "its language model reads pictures by cross attention, and not as tokens of the prompt"),
        (Florence2Config(), "its language model is no decoder that reads pictures as tokens of the prompt"),
    ],
)
def test_models_that_cannot_be_cut_so_are_refused_with_the_reason(config: Any, reason: str) -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match=f"which is not supported, since {reason}: choose LLaVA-1.5"):
        family_of(config)


def test_a_grid_is_named_where_the_inputs_say_it_alone() -> None:
    config = tiny_generic.model("aya").config  # patches of 6, squares of 2 x 2 become one token
    one, tiles = torch.zeros(1, 3, 48, 48), torch.zeros(2, 3, 48, 48)
    assert token_grid(config, {"pixel_values": one}, 16) == (4, 4)
    assert token_grid(config, {"pixel_values": tiles}, 32) is None
    assert token_grid(config, {"pixel_values": one}, 9) is None, "a square number need not be a grid"
    glm = tiny_generic.model("glm4v").config
    assert token_grid(glm, {"image_grid_thw": torch.tensor([[1, 4, 6]])}, 6) == (2, 3)
    assert token_grid(glm, {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 4, 6]])}, 12) is None
