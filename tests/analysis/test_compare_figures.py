"""Figures of the Compare page: traces hold the numbers given; facts and reading help are there; not by colour alone."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from flowcut.cut import FlowCut
from flowcut.records.vision import FlowRecord, Geometry
from flowcut_lens.analysis.agreement import Contradiction, contradiction, highest, iou, layer_rankings, spearman
from flowcut_lens.analysis.causal import Agreement, band
from flowcut_lens.analysis.depth import density, flow_shares, spread, streamlines
from flowcut_lens.analysis.figures import agreement, causal, depth, patches, proxy, truth
from flowcut_lens.analysis.figures.compare_template import BOTH_WAYS, how_to_read, number, percentile, style_of
from flowcut_lens.analysis.geometry import geometry_of
from flowcut_lens.analysis.proxy import cls_proxy, sinks
from flowcut_lens.analysis.truth import flow_kept, layer_truth, object_flow
from tests.analysis import synthetic

FACTS = "model tiny · FlowCut 20 (official) · layers 0–5 · mean of 3 heads · seed 7 · a < b"
MODULES = (agreement, causal, depth, patches, proxy, truth)
ENCODER = synthetic.Encoder(grid=8, n_layers=6, n_heads=3)
GEOMETRY = synthetic.square_geometry(96, 80, 8)
PICTURE = synthetic.picture(96, 80)
FULL = synthetic.flow_record(ENCODER, None, GEOMETRY)
CUT = synthetic.flow_record(ENCODER, FlowCut(20), GEOMETRY)
RNG = np.random.default_rng(0)
SHARE = np.linspace(0, 1, 5)
TOKENS = np.array([64, 32, 8, 1])


def both(measure: Callable[[FlowRecord], Any]) -> dict[str, Any]:
    return {"All tokens": measure(FULL), "FlowCut 20 (official)": measure(CUT)}


def with_sinks() -> FlowRecord:
    norm = RNG.normal(10, 1, (1, 65)).astype(np.float32)
    norm[0, 5] = 80
    return replace(FULL, layers=tuple(replace(layer, hidden_norm=norm) for layer in FULL.layers))


def found() -> Contradiction:
    return contradiction(FULL, 10)


SHOWS = np.arange(64) % 9 == 0


def kept_flow() -> np.ndarray:
    return flow_kept(FULL, SHOWS, np.stack([RNG.random(64) < 0.2, RNG.random(64) < 0.8]))


DRAWN: dict[str, Callable[[], go.Figure]] = {
    "heat_matrix": lambda: agreement.heat_matrix(iou(found().keeps), ["0", "1", "2", "3"], FACTS),
    "contradiction_map": lambda: agreement.contradiction_map(found(), GEOMETRY, FACTS, PICTURE),
    "layer_keeps": lambda: agreement.layer_keeps(found(), GEOMETRY, FACTS, PICTURE),
    "criteria_scatter": lambda: agreement.criteria_scatter(*layer_rankings(FULL)[:2], ("S 0", "S 1"), FACTS),
    "causal_bars": lambda: causal.causal_bars({"one": Agreement(0.3, 0.1, 0.5, 64)}, FACTS),
    "subset_bars": lambda: causal.subset_bars({"one": Agreement(0.3, 0.1, 0.5, 64)}, FACTS),
    "settling": lambda: causal.settling(np.array([100, 125]), np.array([0.1, 0.3]), 0.6, FACTS),
    "removal_curves": lambda: causal.removal_curves(SHARE, {"one": -SHARE}, FACTS),
    "removal_areas": lambda: causal.removal_areas({"one": 0.2}, {"one": 0.8}, FACTS, [0.4, 0.5], [0.5, 0.6]),
    "budget_sweep": lambda: causal.budget_sweep(TOKENS, {"a": -TOKENS / 9}, {"a": TOKENS > 9}, FACTS),
    "flow_share_lines": lambda: depth.flow_share_lines(both(flow_shares), FACTS),
    "spread_lines": lambda: depth.spread_lines(both(spread), FACTS),
    "density_lines": lambda: depth.density_lines(both(density), FACTS),
    "value_boxes": lambda: depth.value_boxes(both(density), FACTS),
    "patch_maps": lambda: patches.patch_maps({"a": np.arange(64.0)}, GEOMETRY, FACTS, "Maps", PICTURE),
    "streamlines_map": lambda: patches.streamlines_map(streamlines(CUT), GEOMETRY, FACTS, PICTURE),
    "proxy_lines": lambda: proxy.proxy_lines(cls_proxy(FULL), FACTS),
    "proxy_heads": lambda: proxy.proxy_heads(cls_proxy(FULL), FACTS),
    "sink_norms": lambda: proxy.sink_norms(sinks(with_sinks()), FACTS),
    "truth_bars": lambda: truth.truth_bars(["a", "b"], np.array([0.5, 0.7]), FACTS, np.array([1, 0.5]), 0.3),
    "layer_truth_map": lambda: truth.layer_truth_map(layer_truth(FULL, 1.0 * SHOWS, 10), FACTS),
    "flow_kept_map": lambda: truth.flow_kept_map(["a", "b"], np.arange(6), kept_flow(), FACTS, 4),
    "object_flow_lines": lambda: truth.object_flow_lines(both(lambda r: object_flow(r, SHOWS)), FACTS),
}


def public(module: ModuleType) -> set[str]:
    return set(module.HOW_TO_READ)


def trace(figure: go.Figure, name: str) -> Any:
    return next(each for each in figure.data if each.name == name)


def test_every_figure_is_drawn_here() -> None:
    assert set(DRAWN) == set().union(*(public(module) for module in MODULES))


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_carries_facts_a_clear_ground_and_how_to_read_it(name: str) -> None:
    figure = DRAWN[name]()
    said = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert said == FACTS.replace("<", "&lt;")
    assert figure.layout.title.text
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color is None
    json.loads(figure.to_json())
    module = next(module for module in MODULES if name in public(module))
    reads = module.HOW_TO_READ[name]
    assert len(reads) > 60
    assert reads.endswith(".")
    assert "importan" not in reads
    assert "because" not in reads


def test_a_figure_that_does_not_say_how_to_read_it_is_found() -> None:
    def figure() -> go.Figure:
        """Something."""
        return go.Figure()

    with pytest.raises(ValueError, match="figure does not say"):
        how_to_read(figure)


def test_no_two_things_look_alike() -> None:
    assert len({style_of(index) for index in range(28)}) == 28
    assert len({style_of(index)[1:] for index in range(20)}) == 20  # without the colour, too


def test_numbers_and_percentiles() -> None:
    assert [number(value) for value in (-0.3, 0.001, -0.001, np.nan)] == ["−0.30", "0.00", "0.00", ""]
    np.testing.assert_allclose(percentile(np.array([3.0, 1, np.nan, 3])), [75, 0, np.nan, 75])


def test_a_matrix_shows_its_numbers() -> None:
    values = spearman(layer_rankings(FULL)[:3])
    values[0, 1] = np.nan
    figure = agreement.heat_matrix(values, ["0", "1", "2"], FACTS, "spearman", "vision layer")
    assert figure.layout.xaxis.title.text == figure.layout.yaxis.title.text == "vision layer"
    heat = figure.data[0]
    np.testing.assert_array_equal(heat.z, values)
    assert heat.text[1][1] == "1"
    assert heat.text[0][1] == ""
    assert float(heat.text[0][2].replace("−", "-")) == pytest.approx(values[0, 2], abs=0.006)
    assert (heat.zmin, heat.zmax) == (-1, 1)
    assert tuple(map(tuple, heat.colorscale)) == BOTH_WAYS


def test_the_contradiction_map_lies_on_the_picture() -> None:
    measured = found()
    figure = agreement.contradiction_map(measured, GEOMETRY, FACTS, PICTURE)
    heat = next(each for each in figure.data if each.type == "heatmap")
    np.testing.assert_allclose(np.ravel(heat.z), measured.votes)
    kept = next(each for each in figure.data if each.name and each.name.startswith("kept by the running score"))
    boxes = GEOMETRY.boxes()[measured.running_keeps]
    np.testing.assert_allclose(kept.x - np.mean(kept.x), boxes[:, [0, 2]].mean(axis=1) - boxes[:, [0, 2]].mean())
    assert min(kept.x) > GEOMETRY.boxes()[:, 2].max()  # beside the picture
    np.testing.assert_allclose(kept.y, (boxes[:, 1] + boxes[:, 3]) / 2)
    assert len(trace(figure, "against most layers").x) == (measured.overruled > 0.5).sum()
    picture = figure.layout.images[0]
    grid = GEOMETRY.boxes()
    laid = (picture.x, picture.y, picture.x + picture.sizex, picture.y + picture.sizey)
    assert laid == pytest.approx((grid[0, 0], 0, grid[-1, 2], 80))
    alone = agreement.contradiction_map(measured, GEOMETRY, FACTS)
    assert not alone.layout.images
    np.testing.assert_allclose(alone.data[1].x, (boxes[:, 0] + boxes[:, 2]) / 2)
    assert "patch 63" in heat.text[7][7]


def test_each_layers_choice_is_held_against_the_running_score() -> None:
    measured = found()
    figure = agreement.layer_keeps(measured, GEOMETRY, FACTS, PICTURE)
    agreed, alone, lost = (set(map(tuple, each.customdata.tolist())) for each in figure.data)
    assert agreed | alone == {(layer, p) for layer in range(4) for p in np.flatnonzero(measured.keeps[layer])}
    assert agreed | lost == {(layer, p) for layer in range(4) for p in np.flatnonzero(measured.running_keeps)}
    assert len(agreed | alone | lost) == len(agreed) + len(alone) + len(lost)
    assert len({each.marker.symbol for each in figure.data}) == 3
    boxes, pictures = GEOMETRY.boxes(), figure.layout.images
    assert len(pictures) == 4
    for each in figure.data:
        for (layer, patch), x, y in zip(each.customdata, each.x, each.y, strict=True):
            assert x - pictures[layer].x == pytest.approx(boxes[patch, [0, 2]].mean() - boxes[0, 0])
            assert y - pictures[layer].y == pytest.approx(boxes[patch, [1, 3]].mean() - boxes[0, 1])


def test_the_scatter_names_patches_and_who_keeps_them() -> None:
    x, y = layer_rankings(FULL)[:2]
    kept = highest(np.stack([x, y]), 10)
    marked = np.arange(64) == 6
    figure = agreement.criteria_scatter(x, y, ("S 0", "S 1"), FACTS, (kept[0], kept[1]), marked, selected=9)
    drawn = np.concatenate([each.customdata for each in figure.data if each.customdata is not None])
    np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], np.stack([np.arange(64), x, y], axis=1))
    alone = trace(figure, "by S 0 alone")
    assert set(alone.customdata[:, 0]) == set(np.flatnonzero(kept[0] & ~kept[1]))
    np.testing.assert_allclose(alone.x, percentile(x)[kept[0] & ~kept[1]])
    assert trace(figure, "sink").x[0] == percentile(x)[6]
    assert trace(figure, "patch 9").y[0] == percentile(y)[9]
    raw = agreement.criteria_scatter(x, y, ("S 0", "S 1"), FACTS, as_ranks=False)
    np.testing.assert_array_equal(raw.data[0].x, x)


def test_bars_are_sorted_and_carry_their_intervals() -> None:
    nothing = Agreement(np.nan, np.nan, np.nan, 64)
    given = {"a": Agreement(0.1, -0.1, 0.2, 64), "stride": nothing, "b": Agreement(0.4, 0.3, 0.6, 64)}
    figure = causal.causal_bars(given, FACTS)
    dots = figure.data[0]
    assert list(dots.y) == ["a", "b"]  # from below
    assert list(figure.layout.yaxis.categoryarray) == ["stride", "a", "b"]
    np.testing.assert_allclose(dots.x, [0.1, 0.4])
    np.testing.assert_allclose(dots.error_x.array, [0.1, 0.2])
    np.testing.assert_allclose(dots.error_x.arrayminus, [0.2, 0.1])
    assert "ranks no patches" in [note.text for note in figure.layout.annotations]
    assert list(dots.text) == ["+0.10", "+0.40"]


def test_removal_curves_and_the_random_band() -> None:
    random = band([-SHARE, -2 * SHARE])
    curves = {"a": -3 * SHARE, "b": -4 * SHARE}
    figure = causal.removal_curves(SHARE, curves, FACTS, "insertion", random, full=0.0, no_image=-4.0)
    for name, curve in curves.items():
        np.testing.assert_array_equal(trace(figure, name).y, curve)
        np.testing.assert_array_equal(trace(figure, name).x, 100 * SHARE)
    np.testing.assert_array_equal(trace(figure, "random: 2 seeds").y, np.concatenate([-SHARE, -2 * SHARE[::-1]]))
    assert {"full picture", "no picture"} <= {note.text for note in figure.layout.annotations}
    areas = causal.removal_areas({"a": 0.2, "b": 0.1}, {"a": 0.9, "b": 0.5}, FACTS)
    assert list(trace(areas, "deletion").y) == ["b", "a"]
    np.testing.assert_allclose(trace(areas, "insertion").x, [0.5, 0.9])


def test_the_sweep_marks_flips_and_what_comes_back() -> None:
    logprob = {"a": np.array([-1.0, -4, -2, -9]), "b": np.array([-1.0, np.nan, -1, -1])}
    exact_match = {"a": np.array([True, False, True, False]), "b": np.array([True, False, True, True])}
    random = band([-TOKENS / 64.0])
    figure = causal.budget_sweep(TOKENS, logprob, exact_match, FACTS, random, np.array([1, 1, 0.4, 0]), full=-1.0)
    line = trace(figure, "a")
    np.testing.assert_array_equal(line.x, TOKENS)
    np.testing.assert_array_equal(line.y, logprob["a"])
    assert [symbol == "x-thin-open" for symbol in line.marker.symbol] == [False, True, False, True]
    assert list(trace(figure, "b").x) == [64, 8, 1]
    flips = [note for note in figure.layout.annotations if note.showarrow]
    assert [note.text for note in flips] == ["32"]
    assert flips[0].x == pytest.approx(np.log10(32))
    assert trace(figure, "random: mean").text[2] == "40% keep the answer"


def test_maps_lay_values_on_their_patches() -> None:
    values = {"a": np.arange(64.0) ** 2, "b": np.full(64, 100.0)}
    marked = {"a": np.arange(64) == 9}
    figure = patches.patch_maps(values, GEOMETRY, FACTS, "Maps", PICTURE, marked, own_scale=False)
    maps = [each for each in figure.data if each.type == "heatmap"]
    for each, given in zip(maps, values.values(), strict=True):
        np.testing.assert_array_equal(np.ravel(each.z), given)
        assert each.y[0] < each.y[1]
        assert each.coloraxis == "coloraxis"
    boxes, kept = GEOMETRY.boxes(), trace(figure, "kept")
    assert (kept.x[0], kept.y[0]) == pytest.approx((maps[0].x[1], maps[0].y[1]))
    assert maps[0].x[0] > boxes[:, 2].max()  # the picture comes first
    assert [note.text for note in figure.layout.annotations] == ["picture", "a", "b"]
    assert len(figure.layout.images) == 1
    ranked = patches.patch_maps({"a": values["a"]}, GEOMETRY, FACTS, as_ranks=True).data[0]
    np.testing.assert_allclose(np.ravel(ranked.z), 100 * np.arange(64) / 63)


def test_streamlines_end_where_their_chains_go() -> None:
    chains = streamlines(CUT)
    figure = patches.streamlines_map(chains, geometry_of(CUT), FACTS, limit=5)
    assert len(trace(figure, "begins here").x) == 5
    everything = patches.streamlines_map(chains, GEOMETRY, FACTS)
    steps = set()
    for chain in chains.ids.tolist():
        steps |= {(b, a) for a, b in pairwise(chain) if a != b and a != -2}
    drawn = [each for each in everything.data if each.mode == "lines"]
    assert sum(len(each.x) // 3 for each in drawn) == len(steps)
    centre = {(GEOMETRY.boxes()[p, [0, 2]].mean(), GEOMETRY.boxes()[p, [1, 3]].mean()) for p in range(64)}
    star = trace(everything, "CLS")
    places = {(x, y) for each in drawn for x, y in zip(each.x, each.y, strict=True) if np.isfinite(x)}
    assert places <= centre | {(star.x[0], star.y[0])}
    assert star.x[0] < GEOMETRY.boxes()[0, 0]


def test_lines_by_depth_are_the_measures() -> None:
    shares = both(flow_shares)
    figure = depth.flow_share_lines(shares, FACTS)
    for run, measured in shares.items():
        line, onward = (each for each in figure.data if each.name == f"another patch, {run}")
        np.testing.assert_array_equal(line.y, measured.source["patch"])
        np.testing.assert_array_equal(onward.y, measured.destination["patch"])
    spreads, densities = both(spread), both(density)
    lines = [each for each in depth.spread_lines(spreads, FACTS).data if each.mode == "lines+markers"]
    np.testing.assert_allclose(lines[1].y, spreads["All tokens"].entropy_ratio.mean(axis=1))
    drawn = depth.density_lines(densities, FACTS)
    np.testing.assert_array_equal(drawn.data[3].y, densities["FlowCut 20 (official)"].delivered)
    boxes = depth.value_boxes(densities, FACTS)
    np.testing.assert_array_equal(boxes.data[1].median, densities["FlowCut 20 (official)"].quantiles[:, 2])


def test_proxy_and_sinks_are_the_measures() -> None:
    measured = cls_proxy(FULL)
    line = trace(proxy.proxy_lines(measured, FACTS), proxy.READINGS["column_mean"])
    np.testing.assert_array_equal(line.y, measured.column_mean.pooled)
    heat = proxy.proxy_heads(measured, FACTS, "value_weighted").data[0]
    np.testing.assert_array_equal(heat.z, measured.value_weighted.per_head.T)
    with pytest.raises(ValueError, match="matrices=True"):
        proxy.proxy_heads(measured, FACTS, "rollout")
    marked = trace(proxy.sink_norms(sinks(with_sinks()), FACTS), "sinks")
    assert set(marked.customdata) == {4}
    assert len(marked.x) == 6


def test_truth_is_sorted_and_says_where_there_is_no_object() -> None:
    bars = truth.truth_bars(
        ["a", "b", "c"], np.array([0.9, 0.2, np.nan]), FACTS, np.array([1, 0, np.nan]), chance=0.1
    ).data[0]  # fmt: skip
    assert list(bars.y) == ["c", "b", "a"]
    assert list(bars.text) == ["no object  –", "20%  ○", "90%  ●"]
    flow = object_flow(FULL, SHOWS)
    figure = truth.object_flow_lines({"a": flow}, FACTS, "outflow")
    np.testing.assert_array_equal(trace(figure, "a").y, flow.outflow_mean)
    np.testing.assert_array_equal(trace(figure, "a: even").y, flow.even)


def test_shares_by_layer_are_drawn_where_they_belong() -> None:
    found = layer_truth(FULL, 1.0 * SHOWS, 10)
    field = truth.layer_truth_map(found, FACTS).data[0]
    assert list(field.y) == list(truth.RANKED_BY.values())
    row = found.by.index("value_norm")
    np.testing.assert_array_equal(field.z[2], found.recall[row])
    marks = ["●" if pointed == 1 else "" for pointed in found.pointing[row]]
    held = zip(marks, found.recall[row], strict=True)
    assert list(field.text[2]) == [f"{mark}{100 * share:.0f}" for mark, share in held]
    kept = np.array([[0.2, 0.4], [0.9, 1.0], [np.nan, np.nan]])
    field = truth.flow_kept_map(["a", "b", "c"], np.array([0, 1]), kept, FACTS, 1, "outflow").data[0]
    assert list(field.y) == ["b", "a", "c"]
    np.testing.assert_array_equal(field.z[0], kept[1])
    assert [list(row) for row in field.text] == [["90", "100"], ["20", "40"], ["", ""]]
    behind = np.array([[0.5, 1.0], [0.6, 0.1]])
    field = truth.flow_kept_map(["a", "b"], np.array([0, 1]), behind, FACTS, 0).data[0]
    assert list(field.y) == ["b", "a"], "what is behind the layer that is read decides nothing"


BY_LAYER = (
    "flow_share_lines", "spread_lines", "density_lines", "value_boxes", "proxy_lines", "proxy_heads", "sink_norms",
    "flow_kept_map", "object_flow_lines",
)  # fmt: skip


@pytest.mark.parametrize("name", BY_LAYER)
def test_layers_that_the_language_model_does_not_read_are_drawn_apart(name: str) -> None:
    bands = [(band.x0, band.x1) for band in DRAWN[name]().layout.shapes if band.type == "rect"]
    assert bands
    assert set(bands) == {(4.5, 5.5)}


def test_where_the_last_layer_is_read_nothing_is_drawn_apart() -> None:
    record = replace(FULL, feature_layer=5)
    for draw, measure in ((depth.spread_lines, spread), (depth.density_lines, density)):
        assert not draw({"all": measure(record)}, FACTS).layout.shapes
    assert not proxy.proxy_heads(cls_proxy(record), FACTS).layout.shapes


def test_a_matrix_of_layers_sets_those_apart_that_are_not_read() -> None:
    figure = agreement.heat_matrix(np.eye(3), ["0", "1", "2"], FACTS, "spearman", "vision layer", unread=1)
    assert [line.x0 for line in figure.layout.shapes if line.x0 == line.x1] == [1.5]
    assert [line.y0 for line in figure.layout.shapes if line.y0 == line.y1] == [1.5]
    assert figure.layout.xaxis.title.text == "vision layer; right of the line: not read by the language model"


def test_a_crop_is_drawn_where_the_encoder_saw_it() -> None:
    wide = Geometry(200, 100, 96, 48, 24, 0, 48, 48, 6, 8, 8)
    picture = synthetic.picture(200, 100)
    figure = patches.patch_maps({}, wide, FACTS, "Nothing", picture)
    source = figure.layout.images[0].source.removeprefix("data:image/png;base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    np.testing.assert_array_equal(shown, np.asarray(picture)[:, 50:150])
    assert list(figure.layout.xaxis.range) == pytest.approx([50, 150])
    assert figure.layout.yaxis.range[0] == pytest.approx(100)
