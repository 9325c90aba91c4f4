"""Figures: every one draws from a real record's arrays, names what it shows, and says how to read it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from flowcut.records.run import Run
from flowcut_lens.analysis.figures import paper, run_style, screen
from flowcut_lens.analysis.figures.run_arrays import relay_arrays
from flowcut_lens.analysis.measures import METRICS, concentration
from flowcut_lens.analysis.relay import DIRECTIONS
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return synthetic.pair(300, 200, tokens=20, encoder=synthetic.Encoder(grid=8, n_layers=6, n_heads=3))


def words_of(figure: Any) -> str:
    if hasattr(figure, "to_json"):
        return json.dumps(figure.to_plotly_json(), ensure_ascii=False, default=str).replace("<br>", " ")
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(text.get_text() for text in texts).replace("\n", " ")


@pytest.mark.parametrize("module", [screen, paper])
@pytest.mark.parametrize("kind", ["mask", "concentration", "relay"])
def test_a_figure_states_its_facts_and_how_to_read_it(module: Any, kind: str, runs: tuple[Run, Run]) -> None:
    picture = synthetic.picture(300, 200)
    if kind == "concentration":
        figure = module.concentration_figure(*runs)
    else:
        figure = getattr(module, f"{kind}_figure")(runs[1], picture)
    text = words_of(figure)
    for fact in (
        "synthetic",
        "FlowCut 20 (official)",
        "layers 0–4 (layer 5: not read by the language model)",
        "3 heads",
    ):
        assert fact in text
    reads = {"mask": "mask_figure"}.get(kind, kind)
    assert run_style.HOW_TO_READ[reads].split(";")[0][:40] in text
    if module is paper:
        file = io.BytesIO()
        figure.savefig(file, format="pdf")
        assert file.getvalue().startswith(b"%PDF")


@pytest.mark.parametrize("metric", METRICS)
def test_screen_and_paper_draw_the_same_numbers(metric: str, runs: tuple[Run, Run]) -> None:
    drawn = screen.concentration_figure(*runs, metric=metric)
    printed = paper.concentration_figure(*runs, metric=metric)
    for run in runs:
        assert run.record is not None
        expected: Any = concentration(run.record).curve(metric).head_mean
        on_screen = next(trace for trace in drawn.data if trace.name == run.title)
        on_paper = next(line for line in printed.axes[0].lines if line.get_label() == run.title)
        np.testing.assert_allclose(on_screen.y, expected)
        np.testing.assert_allclose(np.asarray(on_paper.get_ydata()), expected)


def test_screen_and_paper_draw_the_same_relay(runs: tuple[Run, Run]) -> None:
    picture = synthetic.picture(300, 200)
    found = relay_arrays(runs[1], picture, mass=0.8, max_edges=12)
    drawn = screen.relay_figure(runs[1], picture, mass=0.8, max_edges=12)
    printed = paper.relay_figure(runs[1], picture, mass=0.8, max_edges=12)
    for direction, lines in zip(DIRECTIONS, printed.axes[0].collections, strict=True):
        segments = {tuple(np.ravel(ends)) for ends in found.segments[direction]}
        traces = [
            np.stack([t.x, t.y], axis=1).reshape(-1, 3, 2) for t in drawn.data if t.name == direction and len(t.x)
        ]
        assert {tuple(np.ravel(ends[:2])) for trace in traces for ends in trace} == segments
        assert {tuple(np.ravel(ends)) for ends in cast(Any, lines).get_segments()} == segments
    assert {(image.x, image.y) for image in drawn.layout.images} == {(x, y) for _, x, y in found.patches}


def test_an_unknown_metric_is_refused_with_the_list(runs: tuple[Run, Run]) -> None:
    modules: tuple[Any, Any] = (screen, paper)
    for module in modules:
        with pytest.raises(ValueError, match="entropy_ratio, gini, top_mass, effective_tokens"):
            module.concentration_figure(*runs, metric="entropy")


def test_a_run_without_a_record_is_refused(runs: tuple[Run, Run]) -> None:
    with pytest.raises(ValueError, match="record=True"):
        screen.mask_figure(replace(runs[1], record=None), synthetic.picture())


def test_layer_colours_grow_lighter_with_depth() -> None:
    colours = run_style.layer_colours(24)
    light = [int(c[1:3], 16) * 0.21 + int(c[3:5], 16) * 0.72 + int(c[5:7], 16) * 0.07 for c in colours]
    assert len(set(colours)) == 24
    assert light == sorted(light)
    assert len(run_style.layer_colours(1)) == 1
