"""Why a patch was cut, in words: the numbers of the stored runs, and what is said where there is nothing to say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app import gallery
from app.comparison import Comparison
from app.widgets.why import HINT, panel


@pytest.fixture(scope="module")
def shown() -> Comparison:
    found = gallery.stored_example(gallery.entries()[0].seed)
    assert found is not None
    return found


def test_every_patch_has_a_reason(shown: Comparison) -> None:
    record = shown.cut.record
    assert record is not None
    for patch_id in range(0, record.n_patches, 7):
        died = int(record.died_at_layer[0, patch_id])
        told = panel(shown.cut, patch_id)
        if died < 0:
            assert "Why did this patch stay?" in told
            assert "stayed to the end. Its closest call was after layer" in told
            continue
        step = next(step for step in record.steps if step.layer == died)
        assert "Why was this patch cut?" in told
        assert f"went after layer {died}: it ranked" in told
        assert f"of {step.alive_before} and {step.alive_after} stayed" in told
        assert ("forced to the budget of 64" if step.forced else "asked for by entropy") in told
        assert told.count("<tr") == died + 2


def test_a_method_that_does_not_score_says_so(shown: Comparison) -> None:
    record = shown.control.record
    assert record is not None
    gone = int(np.flatnonzero(record.died_at_layer[0] >= 0)[0])
    assert "Random does not score layer by layer" in panel(shown.control, gone)
    assert "never up for a cut" in panel(shown.full, gone)


@pytest.mark.parametrize("patch_id", [None, -1, 576])
def test_without_a_patch_there_is_a_hint(shown: Comparison, patch_id: int | None) -> None:
    assert HINT in panel(shown.cut, patch_id)


def test_without_a_record_there_is_a_hint(shown: Comparison) -> None:
    assert HINT in panel(replace(shown.cut, record=None), 5)


def test_where_nothing_had_to_go_nothing_is_said_about_scores(shown: Comparison) -> None:
    record = shown.cut.record
    assert record is not None
    whole = replace(record, steps=(), died_at_layer=np.full_like(record.died_at_layer, -1))
    whole = replace(whole, layers=tuple(layer for layer in record.layers if layer.layer == 0))
    assert "nothing had to go" in panel(replace(shown.cut, record=whole), 5)
