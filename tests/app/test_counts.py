"""The counts under an answer, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcut_lens.app.views.ask.cost import _counts, tokens_by_layer
from tests.analysis import synthetic


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((7, 7, 7), "layers 0–2: 7"),
        ((9, 9, 4, 4, 4), "layers 0–1: 9, layers 2–4: 4"),
        ((9, 4, 4, 2), "layer 0: 9, layers 1–2: 4, layer 3: 2"),
    ],
)
def test_equal_layers_are_one_number(counts: tuple[int, ...], told: str) -> None:
    assert tokens_by_layer(counts) == told


def test_counts_are_told_where_they_tell_something() -> None:
    run, _ = synthetic.pair()
    plain = replace(run, tower_tokens=run.visual_tokens, separator_tokens=0, layer_tokens=(40, 40))
    assert _counts(plain, "picture") == ""
    tiled = replace(plain, tower_tokens=run.visual_tokens - 24, separator_tokens=24, layer_tokens=(600, 600, 80))
    assert f"{run.visual_tokens - 24} out of the vision encoder" in _counts(tiled, "picture")
    assert "24 of the visual tokens are newlines" in _counts(tiled, "picture")
    assert "layers 0–1: 600, layer 2: 80" in _counts(tiled, "picture")
    assert "24 of the visual tokens are no patches" in _counts(tiled, "video")
