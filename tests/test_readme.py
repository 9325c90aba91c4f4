"""README's Python, run as written, in order, in one notebook's namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowcut.records.studies import log_odds
from flowcut_lens.scenes import draw

README = Path(__file__).resolve().parents[1] / "README.md"
SCENE = 2000018


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the snippets left behind, and what each ended with."""
    folder, patch = tmp_path_factory.mktemp("notebook"), pytest.MonkeyPatch()
    draw(SCENE).image.save(folder / "photo.png")
    patch.chdir(folder)
    names: dict[str, Any] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(snippet, str(README), "exec"), names)
    yield names
    patch.undo()


def test_the_answers_are_text(notebook: dict[str, Any]) -> None:
    for answer in (notebook["full"].answer, notebook["run"].answer, notebook["answer"]):
        assert answer.strip()
        assert "<image>" not in answer
        assert "USER" not in answer
    assert notebook["answer"].strip() == notebook["run"].answer.strip()


def test_records_and_shapes_are_as_said(notebook: dict[str, Any]) -> None:
    assert notebook["full"].record.steps == ()
    assert notebook["rec"].record.kept_patch_ids.shape == (1, 64)
    assert notebook["out"].hidden_states[-2].shape[:2] == (1, 65)
    assert notebook["session"].record.kept_patch_ids.tolist() == notebook["run"].record.kept_patch_ids.tolist()


def test_the_studies_are_of_the_full_answer(notebook: dict[str, Any]) -> None:
    assert len(notebook["one"].logprobs) == len(notebook["full"].token_ids)
    assert np.isfinite(notebook["one"].logprobs).all()
    assert notebook["study"].done == 1
    assert np.isfinite(notebook["study"].effect).all()
    assert notebook["study"].full == pytest.approx(log_odds(notebook["full"].logprob), abs=1e-2)
