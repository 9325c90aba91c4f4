"""Why a patch was cut, in words: the numbers of the stored runs, and what is said where there is nothing to say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcut_lens.analysis.trajectory import nearest_kept_patch, trace_patch
from flowcut_lens.app.media import gallery
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.views.ask.patch_trajectory import HINT, NO_NEAREST_KEPT, panel
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def shown() -> Comparison:
    found = gallery.stored_example(gallery.entries()[0].seed)
    assert found is not None
    return found


def test_every_patch_has_a_reason(shown: Comparison) -> None:
    record = shown.cut.record
    assert record is not None
    for patch_id in range(0, record.n_patches, 7):
        pruned_at = int(record.pruned_at_layer[0, patch_id])
        text = panel(shown.cut, patch_id)
        if pruned_at < 0:
            assert "Why was this patch kept?" in text
            assert "was kept to the end. Its smallest margin was after layer" in text
            continue
        step = next(step for step in record.steps if step.layer == pruned_at)
        assert "Why was this patch pruned?" in text
        assert f"was pruned after layer {pruned_at}: it ranked" in text
        assert f"of {step.kept_before} and {step.kept_after} were kept" in text
        assert ("clamped to the budget of 64" if step.clamped else "requested by entropy") in text
        assert text.count("<tr") == pruned_at + 2


def test_the_nearest_kept_patch_is_named_and_can_be_clicked() -> None:
    _, cut = synthetic.pair(tokens=20, encoder=synthetic.Encoder(grid=12))
    record = cut.record
    assert record is not None
    for patch_id in range(0, record.n_patches, 5):
        text, nearest = panel(cut, patch_id), nearest_kept_patch(record, patch_id)
        assert (
            (nearest is not None) == (record.pruned_at_layer[0, patch_id] >= 0) == ("The nearest kept patch: " in text)
        )
        if nearest is None:
            continue
        row, column = divmod(nearest.patch_id, 12)
        assert f'data-patch="{nearest.patch_id}">patch {nearest.patch_id} (row {row}, column {column})</button>' in text
        assert f"cosine <b>{nearest.cosine:.2f}</b>" in text
        assert (
            "it was kept to the end" if nearest.pruned_at < 0 else f"was itself pruned after layer {nearest.pruned_at}"
        ) in text


def test_a_record_without_nearest_kept_patches_says_what_to_do() -> None:
    _, cut = synthetic.pair(tokens=20, encoder=synthetic.Encoder(grid=12))
    assert cut.record is not None
    layers = tuple(replace(layer, nearest_kept_id=None, nearest_kept_cosine=None) for layer in cut.record.layers)
    pruned_patch = int(np.flatnonzero(cut.record.pruned_at_layer[0] >= 0)[0])
    assert NO_NEAREST_KEPT in panel(replace(cut, record=replace(cut.record, layers=layers)), pruned_patch)


def test_every_layer_has_the_margin_and_moves_the_stage(shown: Comparison) -> None:
    record = shown.cut.record
    assert record is not None
    pruned_patch = int(np.flatnonzero(record.pruned_at_layer[0] > 2)[0])
    text = panel(shown.cut, pruned_patch)
    for trace in trace_patch(record, pruned_patch):
        kind = "pruned" if trace.pruned else "cut" if trace.kept else ""
        assert f'<tr class="{kind}" data-layer="{trace.layer}">' in text
        assert f'data-layer="{trace.layer}">{trace.layer}</button>' in text
        if trace.kept is not None:
            assert f"<td>{trace.margin:.2f}</td>".replace("-", "−") in text
    for name in ("CLS attention", "similarity", "value norm", "score", "running score", "rank", "cut-off", "margin"):
        assert f">{name}</th>" in text


def test_a_method_that_does_not_score_says_so(shown: Comparison) -> None:
    record = shown.control.record
    assert record is not None
    pruned_patch = int(np.flatnonzero(record.pruned_at_layer[0] >= 0)[0])
    assert "Random does not score layer by layer" in panel(shown.control, pruned_patch)
    assert "was not pruned: this is the run with all tokens" in panel(shown.full, pruned_patch)


@pytest.mark.parametrize("patch_id", [None, -1, 576])
def test_without_a_patch_there_is_a_hint(shown: Comparison, patch_id: int | None) -> None:
    assert HINT in panel(shown.cut, patch_id)


def test_without_a_record_there_is_a_hint(shown: Comparison) -> None:
    assert HINT in panel(replace(shown.cut, record=None), 5)


def test_where_nothing_had_to_be_pruned_nothing_is_said_about_scores(shown: Comparison) -> None:
    record = shown.cut.record
    assert record is not None
    unpruned = replace(record, steps=(), pruned_at_layer=np.full_like(record.pruned_at_layer, -1))
    unpruned = replace(unpruned, layers=tuple(layer for layer in record.layers if layer.layer == 0))
    assert "nothing had to be pruned" in panel(replace(shown.cut, record=unpruned), 5)
