"""The counts under an answer, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcut.cut import Cut
from flowcut_lens.app.views.ask.cost import _counts, numbers, times_bar, tokens_by_layer, where_it_cuts
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


def test_why_the_vision_encoder_takes_longer_under_one_cut_than_under_another() -> None:
    full, pruned = synthetic.pair()
    assert where_it_cuts(full) == ""
    assert "on the way, after vision layers 1, 3, 5, 7, 9" in where_it_cuts(pruned)
    assert pruned.record is not None
    once = replace(pruned.record.steps[-1], layer=10)
    random = replace(pruned, cut=Cut("random", tokens=64), record=replace(pruned.record, steps=(once,)))
    assert "behind vision layer 10: up to there the encoder runs on all patches" in where_it_cuts(random)
    assert where_it_cuts(replace(random, record=None)) == ""
    inside = replace(random, cut=Cut("fastv", tokens=64))
    assert where_it_cuts(inside) == "It prunes in the language model: the whole vision encoder runs on all patches."


def test_wall_time_that_belongs_to_no_stage_and_medians_are_told() -> None:
    run, _ = synthetic.pair()
    older = times_bar(run, run, 1.0, "picture")
    assert "no stage" not in older
    assert "medians" not in older
    told = times_bar(replace(run, times=replace(run.times, unassigned=0.0123, runs=5)), run, 1.0, "picture")
    assert "12 ms of wall time that belong to no stage" in told
    assert "medians of 5 runs" in told
    assert told.count('class="unassigned"') == 0


def test_costs_of_an_answer_token_stand_beside_totals() -> None:
    """A shorter answer costs less in sum; over its tokens it need not."""
    full, _ = synthetic.pair()
    short = replace(full, tokens=full.tokens[:1])
    told = numbers(short, full, "picture")
    assert "Per answer token (1): " in told
    assert "The full answer has 3: totals favour the shorter, these the longer." in told
    assert "+200%" in told  # the same compute for a third of the tokens
    assert "Per answer token (3): " in numbers(full, full, "picture")
    assert "favour" not in numbers(full, full, "picture")
    assert "Per answer token" not in numbers(replace(full, tokens=()), full, "picture")
