"""`flowcut compare` and `flowcut causal`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import flowcut
from flowcut.criteria import METHODS
from flowcut_lens.cli import main
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "cat.png"
    tiny.picture().save(path)
    return str(path)


def flow(*arguments: str) -> int:
    try:
        return main.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_every_allowed_method_has_its_row(model: str, picture: str, capsys: pytest.CaptureFixture) -> None:
    options = ["--model", model, "--tokens", "9", "--max-new-tokens", "3"]
    assert flow("compare", picture, "What?", *options) == 0
    table = capsys.readouterr().out.splitlines()
    assert flow("compare", picture, "What?", *options, "--seed", "2", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    loaded = flowcut.load(model)
    refused = flowcut.refusals(loaded)
    allowed = [name for name, method in METHODS.items() if name not in refused and not method.takes_patches]
    assert [row["method"] for row in facts["methods"]] == allowed
    assert set(facts["refused"]) == set(refused)
    assert table[0].split()[0] == "method"
    assert [line.split("  ")[0] for line in table[2 : 2 + len(allowed)]] == [METHODS[name].label for name in allowed]
    full = flowcut.ask(loaded, picture, "What?", max_new_tokens=3)
    assert facts["logprob"] == pytest.approx(sum(token.logprob for token in full.tokens), abs=1e-5)
    drawn = flowcut.ask(loaded, picture, "What?", flowcut.Cut("random", tokens=9, seed=2), max_new_tokens=3)
    row = next(row for row in facts["methods"] if row["method"] == "random")
    assert row["answer"] == drawn.answer
    assert drawn.final_patch_ids is not None
    assert row["kept_patch_ids"] == drawn.final_patch_ids.tolist()
    assert row["exact_match"] == ([token.id for token in drawn.tokens] == [token.id for token in full.tokens])
    assert len(row["logprobs"]) == len(full.tokens)


def test_what_the_answer_loses(model: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--model", model, "--tokens", "9", "--max-new-tokens", "2", "--block", "3", "--reading", "blocks"]
    out = tmp_path / "causal.safetensors"
    assert flow("causal", picture, "What?", *options, "--out", str(out), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    arrays = load_file(out)
    loaded = flowcut.load(model)
    full = flowcut.ask(loaded, picture, "What?", max_new_tokens=2)
    *_, study = flowcut.knock_out(loaded, picture, "What?", [token.id for token in full.tokens], block=3)
    np.testing.assert_allclose(facts["logprob_drop"], study.logprob_drop, atol=1e-6)
    np.testing.assert_allclose(arrays["logprob_drop"], study.logprob_drop, atol=1e-6)
    np.testing.assert_array_equal(arrays["block_of_patch"], study.block_of_patch)
    ranking = flowcut.ask(loaded, picture, "What?", flowcut.FlowCut(tokens=9)).ranking
    np.testing.assert_allclose(arrays["ranking.flowcut"], ranking)
    assert {f"ranking.{name}" for name in facts["spearman"]} == {name for name in arrays if name.startswith("ranking.")}
    assert all(-1 <= value <= 1 for value in facts["spearman"].values())
    assert flow("causal", picture, "What?", *options) == 0
    said = capsys.readouterr().out.splitlines()
    worst = int(np.abs(study.logprob_drop).argmax())
    assert said[0] == full.answer
    assert said[3].startswith(f"row {worst // 3 + 1}, column {worst % 3 + 1}")
    assert said[-1].startswith("Positions kept. One block taken from the full picture")
    assert (facts["reading"], facts["positions"]) == ("blocks", "kept")


def test_what_each_block_adds(model: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--model", model, "--tokens", "12", "--max-new-tokens", "2", "--sets", "200"]
    out = tmp_path / "causal.safetensors"
    assert flow("causal", picture, "What?", *options, "--out", str(out), "--positions", "renumbered", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    loaded = flowcut.load(model)
    full = flowcut.ask(loaded, picture, "What?", max_new_tokens=2)
    *_, study = flowcut.sampled_subsets(
        loaded, picture, "What?", full.token_ids, 12, most_sets=200, positions="renumbered"
    )
    np.testing.assert_allclose(facts["effect"], study.effect, atol=1e-4)
    np.testing.assert_allclose(load_file(out)["effect"], study.effect, atol=1e-4)
    assert (facts["sets"], facts["sizes"], facts["positions"]) == (200, [3], "renumbered")
    assert facts["reliability"] == pytest.approx(study.reliability, abs=0.02)
    assert "flowcut" in facts["spearman"]
    assert flow("causal", picture, "What?", *options, "--mixed-sizes") == 0
    said = capsys.readouterr().out
    assert "200 random sets of 1, 3, 6, 12 blocks" in said
    assert "sees what carries the answer where methods cut" in said


def test_what_is_lost_without_an_object(
    model: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bare, same = tmp_path / "bare.png", tmp_path / "same.png"
    pixels = np.asarray(tiny.picture()).copy()
    pixels[:26, :30] = 128
    Image.fromarray(pixels).save(bare)
    tiny.picture().save(same)
    options = ["--model", model, "--tokens", "9", "--max-new-tokens", "2", "--reading", "objects", "--without"]
    assert flow("causal", picture, "What?", "--json", *options, str(bare)) == 0
    (found,) = json.loads(capsys.readouterr().out)["objects"]
    rows, cols = np.divmod(found["patch_ids"], 8)
    assert rows.max() <= 4
    assert cols.max() <= 4
    assert len(rows) > 8
    assert flow("causal", picture, "What?", *options, str(bare)) == 0
    assert "answer without it" in capsys.readouterr().out
    assert flow("causal", picture, "What?", *options, str(same)) == 2
    assert "show the same" in capsys.readouterr().err
    assert flow("causal", picture, "What?", *options[:-1]) == 2
    assert "come together" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "causal"])
@pytest.mark.parametrize(
    "options", [["--tokens", "0"], ["--tokens", "65"], ["--seed", "-1"], ["--model", "/no/such/model"], ["--unknown"]]
)
def test_bad_options(model: str, picture: str, command: str, options: list[str], capsys: pytest.CaptureFixture) -> None:
    chosen = options if "--model" in options else ["--model", model, *options]
    assert flow(command, picture, "What?", "--quiet", *chosen) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_bad_blocks_and_places(model: str, picture: str, capsys: pytest.CaptureFixture) -> None:
    assert flow("causal", picture, "What?", "--model", model, "--block", "0") == 2
    options = ["--quiet", "--model", model, "--tokens", "9", "--max-new-tokens", "1", "--block", "4", "--sets", "8"]
    assert flow("causal", picture, "What?", *options, "--out", "/no/such/folder/x") == 2
    assert capsys.readouterr().err.count("\n") == 2
