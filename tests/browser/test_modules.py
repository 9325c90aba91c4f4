"""The page's modules in real Chromium, without the page: what they decode, where things lie, what a point hits."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from tests.browser.conftest import ROOT

COMPONENTS = ROOT / "app" / "components"
HOST = "http://modules.test"
LONGEST_LINE, LONGEST_FILE = 120, 400
SCRIPTS = sorted(COMPONENTS.rglob("*.js"))

GRID = {"box": [10, 20, 50, 40], "rows": 2, "cols": 4}
"""Four cells across and two down, each 10 x 10 pixels of the original picture."""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a host that serves nothing but the components' own folders."""
    opened = browser.new_page(viewport={"width": 800, "height": 600})

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(HOST + "/")
        if name:
            route.fulfill(path=COMPONENTS / name, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    opened.route(f"{HOST}/**", serve)
    opened.goto(f"{HOST}/")
    yield opened
    opened.close()


def evaluate(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """What a function body returns, given the module `m` and one argument `a`."""
    script = f"async (a) => {{ const m = await import('{HOST}/{module}'); {body} }}"
    return page.evaluate(script, argument)


def packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode()


@pytest.fixture(scope="module")
def payload() -> dict[str, Any]:
    """Two layers, three patches, two heads, as `analysis.graph.stage_payload` packs them.

    Patch 0 is kept, patch 1 is pruned at layer 0, patch 2 at layer 1; both resemble patch 0.
    """
    edges = [
        {"ids": [2, 0], "heads": packed([[1, 0], [0, 1]], "u1"), "shares": packed([[204, 51], [255, 0]], "u1")},
        {"ids": [0], "heads": packed([[0, 1]], "u1"), "shares": packed([[153, 102]], "u1")},
    ]
    flow = {"data": packed([[100, 200, 65535], [40000, 0, 3]], "<u2"), "scale": [0.001, 0.00001]}
    run = {
        "title": "FlowCut 1",
        "prunedAt": packed([-1, 0, 1], "<i2"),
        "nearestKept": packed([-1, 0, 0], "<i2"),
        "entering": [3, 2],
        "removed": [1, 1],
        "edges": {"inflow": edges, "outflow": edges[::-1]},
        "flow": {"inflow": flow, "outflow": flow},
    }
    colours = ["#102030", "#ff8000"]
    return {
        "heads": 2,
        "layers": 2,
        "lastReadLayer": 1,
        "layerColours": colours,
        "runs": {"full": {**run, "removed": [0, 0]}, "pruned": run},
    }


def test_a_payload_is_decoded_to_its_numbers(page: Page, payload: dict[str, Any]) -> None:
    told = evaluate(
        page,
        "stage/js/data.js",
        """const data = m.unpack(a), run = data.runs.pruned, edges = run.edges.inflow[0];
        return {
          title: run.title, prunedAt: [...run.prunedAt], nearestKept: [...run.nearestKept], entering: run.entering,
          colours: data.layerColours, flow: [...run.flow.inflow.values], heads: m.headsOf(edges, 0),
          second: m.headsOf(edges, 1), outflow: m.headsOf(run.edges.outflow[0], 0),
        };""",
        payload,
    )
    assert told == {
        "title": "FlowCut 1",
        "prunedAt": [-1, 0, 1],
        "nearestKept": [-1, 0, 0],
        "entering": [3, 2],
        "colours": ["#102030", "#ff8000"],
        "flow": [100, 200, 65535, 40000, 0, 3],
        "heads": [{"head": 1, "share": 0.8}, {"head": 0, "share": 0.2}],
        "second": [{"head": 0, "share": 1}, {"head": 1, "share": 0}],
        "outflow": [{"head": 0, "share": 0.6}, {"head": 1, "share": 0.4}],
    }


def test_attention_is_told_in_the_scale_of_its_layer(page: Page, payload: dict[str, Any]) -> None:
    body = """const run = m.unpack(a).runs.pruned;
      return [m.attentionOf(run, "inflow", 0, 1), m.attentionOf(run, "outflow", 1, 0)];"""
    assert evaluate(page, "stage/js/data.js", body, payload) == pytest.approx([0.2, 0.4])


def test_a_patch_is_kept_then_leaves_then_is_pruned(page: Page) -> None:
    body = "return a.map(([patch, layer]) => m.fateOf(new Int16Array([-1, 0, 5]), layer, patch));"
    asked = [(0, 0), (0, 11), (1, 0), (1, 1), (2, 4), (2, 5), (2, 6)]
    fates = ["kept", "kept", "leaving", "pruned", "kept", "leaving", "pruned"]
    assert evaluate(page, "stage/js/data.js", body, asked) == fates


def test_the_first_view_is_where_the_mask_is_whole(page: Page, payload: dict[str, Any]) -> None:
    body = """const data = m.unpack(a);
      const early = { ...data.runs.pruned, removed: [1, 0] };
      return [m.firstView({ ...data, runs: { ...data.runs, pruned: early } }), m.firstView(data),
              m.firstView({ ...data, runs: { ...data.runs, pruned: data.runs.full } }),
              m.firstView({ ...data, lastReadLayer: 0 }), m.lastRead(data),
              m.lastRead({ ...data, lastReadLayer: 5 })];"""
    # Pruned after the last layer that is read: no deeper one is shown by itself.
    assert evaluate(page, "stage/js/data.js", body, payload) == [1, 1, 0, 0, 1, 1]


def test_one_scale_is_that_of_the_strongest_edge_of_either_run(page: Page) -> None:
    runs = {
        "full": {"strongest": {"inflow": 0.2, "outflow": 0.5}},
        "pruned": {"strongest": {"inflow": 0.3, "outflow": 0}},
    }
    body = 'return [m.strongestEdge(a, "inflow"), m.strongestEdge(a, "outflow")];'
    assert evaluate(page, "stage/js/data.js", body, {"runs": runs}) == [0.3, 0.5]


@pytest.mark.parametrize(("share", "told"), [(0.0, "0.0%"), (0.0994, "9.9%"), (0.0995, "10%"), (1.0, "100%")])
def test_shares_have_two_figures(page: Page, share: float, told: str) -> None:
    assert evaluate(page, "stage/js/data.js", "return m.percent(a);", share) == told


@pytest.mark.parametrize(
    ("x", "y", "patch"),
    [(10, 20, 0), (19.9, 29.9, 0), (20, 29.9, 1), (49.9, 39.9, 7), (9.9, 25, None), (50, 25, None), (30, 40, None)],
)
def test_a_point_of_the_picture_lies_in_a_patch_or_in_none(page: Page, x: float, y: float, patch: int | None) -> None:
    assert evaluate(page, "stage/js/geometry.js", "return m.patchAt(...a);", [GRID, x, y]) == patch


def test_a_patch_has_its_box_on_the_picture(page: Page) -> None:
    told = evaluate(page, "stage/js/geometry.js", "return m.patchBox(a, 6);", GRID)
    assert told == {"left": 30, "top": 30, "width": 10, "height": 10}


def test_a_step_stays_on_the_grid(page: Page) -> None:
    body = "return [[1, 0], [0, 1], [-1, 0], [0, -1]].map((step) => m.neighbourOf(a, 3, step));"
    assert evaluate(page, "stage/js/geometry.js", body, GRID) == [7, 3, 3, 2]


def test_pictures_stand_side_by_side_where_that_makes_them_largest(page: Page) -> None:
    body = "return m.layOut(a.sizes, a.width);"
    beside = evaluate(page, "stage/js/geometry.js", body, {"sizes": [[100, 200], [100, 200]], "width": 414})
    assert beside == {"scale": 2, "corners": [{"x": 0, "y": 20}, {"x": 214, "y": 20}], "height": 423}
    below = evaluate(page, "stage/js/geometry.js", body, {"sizes": [[400, 100], [400, 100]], "width": 400})
    assert below == {"scale": 1, "corners": [{"x": 0, "y": 20}, {"x": 0, "y": 154}], "height": 257}


MASK = """const mask = new m.MaskPanel(document.createElement("canvas"));
  const picture = { width: 60, height: 60, grid: a, seen: a.box, unseen: [], padding: [] };
  const canvas = [0, 0, 60, 60];
  const prunedAt = new Int16Array(8).fill(-1), nearestKept = null, layerColours = [];
  mask.load({ picture, canvas, prunedAt, nearestKept, layerColours }, new Image());"""


def test_a_pixel_of_the_mask_hits_the_patch_drawn_there(page: Page) -> None:
    body = """mask.resize(600);
      const points = [[186, 300], [301, 188], [485, 372], [112, 190], [300, 374]];
      return { size: [mask.width, mask.height], scale: mask.scale, cell: mask.cell(5),
               hits: points.map(([x, y]) => mask.patchAt(x, y)) };"""
    told = evaluate(page, "stage/js/mask.js", MASK + body, GRID)
    scale = 560 / 60  # as high as a mask may be, with the picture in the middle of its width
    assert told["size"] == [600, 560]
    assert told["scale"] == pytest.approx(scale)
    assert told["cell"] == pytest.approx([20 + 20 * scale, 30 * scale, 10 * scale, 10 * scale])
    assert told["hits"] == [4, 2, 7, None, None]


def test_a_grid_that_would_be_too_small_is_drawn_larger_than_the_picture_fits(page: Page) -> None:
    body = MASK + "mask.resize(120); return [mask.scale, mask.cell(0), mask.patchAt(1, 150), mask.patchAt(119, 179)];"
    assert evaluate(page, "stage/js/mask.js", body, GRID) == [3, [0, 60, 30, 30], None, None]


PANES = """const { data = a } = a, panels = new m.PanesPanel(document.createElement("canvas"));
  data.runs.pruned.prunedAt = new Int16Array(data.runs.pruned.prunedAt);
  panels.load(data, [new Image(), new Image()]);
  panels.resize(414);"""


def two_panes(side: int) -> dict[str, Any]:
    """A base and, beside it, one crop, of `side` x `side` patches each, both on a picture of 100 x 200 pixels."""
    box, count = [0, 0, 100, 200], side * side
    pane = {"title": "", "width": 100, "height": 200, "canvas": box, "seen": box, "unseen": []}
    grid = {"box": box, "rows": side, "cols": side, "padding": []}
    return {
        "panes": [
            {**pane, "picture": part, "grids": [{**grid, "view": part, "first": count * part}]} for part in (0, 1)
        ],
        "views": ["the base", "crop 1"],
        "view": 0,
        "layerColours": [],
        "runs": {"pruned": {"prunedAt": [-1] * (2 * count)}},
    }


def test_panes_number_their_patches_through(page: Page) -> None:
    body = """const points = [[1, 21], [199, 419], [215, 21], [413, 419], [207, 100]];
      return { hits: points.map((at) => panels.patchAt(...at)), names: [panels.nameOf(3), panels.nameOf(6)],
               places: [panels.placeText(3), panels.placeText(6)] };"""
    told = evaluate(page, "stage/js/panes.js", PANES + body, two_panes(2))
    assert told["hits"] == [0, 3, 4, 7, None]
    assert told["places"] == [" of the base (row 1, column 1)", " of crop 1 (row 1, column 0)"]
    assert told["names"] == [3, 2]


@pytest.mark.parametrize(
    ("side", "steps", "reached"),
    [
        (2, [[0, [0, 1]], [0, [1, 0]], [0, [0, -1]], [7, [0, 1]], [1, [-1, 0]]], [1, 2, 0, 7, 1]),
        (20, [[19, [0, 1]], [400, [0, -1]]], [610, 210]),
    ],
    ids=["on a pane", "to the middle of the next"],
)
def test_a_step_leads_to_a_patch_beside(page: Page, side: int, steps: list[Any], reached: list[int]) -> None:
    body = PANES + "return a.steps.map(([patch, step]) => panels.neighbour(patch, step));"
    assert evaluate(page, "stage/js/panes.js", body, {"data": two_panes(side), "steps": steps}) == reached


def test_the_layer_in_focus_has_the_wide_gap(page: Page) -> None:
    gaps = evaluate(page, "stage/js/relay_layout.js", "return m.gapsOf(3, 544, 1);")
    assert [gap["closeness"] for gap in gaps] == [0, 1, 0]
    assert [gap["from"] for gap in gaps] == pytest.approx([30, 140, 420])
    assert gaps[-1]["to"] == pytest.approx(530)


def test_squares_lie_strongest_nearest_the_spine(page: Page) -> None:
    body = """const gap = { layer: 0, from: 0, to: 100, closeness: 1 };
      return ["inflow", "outflow"].map((way) => m.squaresOf(m.blockOf(gap, way, 4, 170), way, 4, 170));"""
    inflow, outflow = evaluate(page, "stage/js/relay_layout.js", body)
    assert [(square["x"], square["y"]) for square in inflow] == [(39.5, 80), (10.5, 80), (39.5, 54), (10.5, 54)]
    assert [square["exit"] for square in (*inflow[:1], *outflow[:1])] == [104, 236]
    assert all(square["y"] >= 236 for square in outflow)


def test_a_point_hits_the_thumb_drawn_last(page: Page) -> None:
    thumbs = [{"x": 10, "y": 10, "side": 20, "patch": 1}, {"x": 20, "y": 20, "side": 20, "patch": 2}]
    body = "return a.points.map(([x, y]) => m.thumbAt(a.thumbs, x, y)?.patch ?? null);"
    points = [(15, 15), (25, 25), (9, 9), (8, 9), (41, 41), (42, 41)]
    told = evaluate(page, "stage/js/relay_layout.js", body, {"thumbs": thumbs, "points": points})
    assert told == [1, 2, 1, None, 2, None]


def test_a_point_of_the_chart_hits_a_layer(page: Page) -> None:
    body = """const chart = new m.ChartPanel(document.createElement("canvas"));
      chart.load({ layers: 12 });
      chart.resize(652, 240);
      return { hits: [0, 40, 89, 90, 640, 9999].map((x) => chart.layerAt(x)), middle: chart.x(0),
               ends: [1, 0].map((value) => chart.y(value, [0, 0.5, 1])) };"""
    told = evaluate(page, "stage/js/chart.js", body)
    assert told == {"hits": [0, 0, 0, 1, 11, 11], "middle": 65, "ends": [26, 146]}


def test_a_click_on_another_picture_hits_the_same_patch(page: Page) -> None:
    body = """const shown = new DOMRect(100, 50, 120, 120), picture = { width: 60, height: 60, grid: a };
      return [[121, 91], [199, 129], [119, 91]].map(([clientX, clientY]) =>
        m.patchOn(picture, shown, { clientX, clientY }));"""
    assert evaluate(page, "stage/js/page_links.js", body, GRID) == [0, 7, None]


@pytest.mark.parametrize(("x", "y", "patch"), [(0, 0, 0), (10, 5, 1), (19.9, 9.9, 1), (20, 5, None), (-1, 5, None)])
def test_a_click_of_the_painter_hits_a_patch(page: Page, x: float, y: float, patch: int | None) -> None:
    boxes = [[0, 0, 10, 10], [10, 0, 20, 10]]
    assert evaluate(page, "painter/js/geometry.js", "return m.patchAt(...a);", [boxes, [x, y]]) == patch


def test_a_lasso_holds_the_patches_whose_centres_lie_inside(page: Page) -> None:
    boxes = [[10 * column, 10 * row, 10 * column + 10, 10 * row + 10] for row in range(3) for column in range(3)]
    hollow = [[0, 0], [30, 0], [30, 30], [20, 30], [20, 10], [10, 10], [10, 30], [0, 30]]
    body = "return [m.patchesInside(a.boxes, a.path), m.reachOf([[3, 4], [0, 0], [3, 5]])];"
    assert evaluate(page, "painter/js/geometry.js", body, {"boxes": boxes, "path": hollow}) == [
        [0, 1, 2, 3, 5, 6, 8],
        5,
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(COMPONENTS).as_posix())
def test_a_script_is_a_short_checked_module(page: Page, script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "// @ts-check"
    assert max(map(len, lines)) <= LONGEST_LINE
    assert len(lines) <= LONGEST_FILE
    names = evaluate(page, script.relative_to(COMPONENTS).as_posix(), "return Object.keys(m);")
    assert names or script.name == "types.js"  # it hands something on, and all that it imports is there
