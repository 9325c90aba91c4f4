"""What all figures share: colours told apart by everyone, the facts of a run, and how to read each figure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import Image, Resampling

from flowcut_lens.analysis.measures import METRICS
from flowcut_lens.analysis.views import images_of

if TYPE_CHECKING:
    from flowcut.records.run import Run
    from flowcut.records.vision import FlowRecord, Geometry

# Okabe and Ito's palette (2008); dash patterns, markers and sides of the drawing say the same without colour.
INFLOW = "#0072B2"
OUTFLOW = "#D55E00"
FULL = "#4D4D4D"
PRUNED = "#AA4499"

RUN_STYLES = ((FULL, PRUNED), ("solid", "dash"), ("circle", "square-open"))
"""Colours, dash patterns and markers of the unpruned and the pruned run."""

FIGURE_EDGES = 12
"""Edges per layer and direction in a figure that shows all layers at once."""

TILE_SIDE = 28
"""Pixels of a patch's own picture."""

TILE_HEIGHT = 0.062
"""Of a patch in the relay graph, in the layout's units."""

LINE_LENGTH = 110

VIRIDIS = ("#440154", "#443983", "#31688E", "#21918C", "#35B779", "#90D743", "#FDE725")
"""Seven even steps of viridis, dark to light for every kind of colour vision."""

HOW_TO_READ = {
    "mask": (
        "Patches that went are dimmed, or coloured by the layer after which they went (the number says which); "
        "what the model never saw is hatched."
    ),
    "mask_figure": (
        "Patches that went are coloured by the layer after which they went (the number says which); patches in the "
        "picture's own colours were kept; grey or hatched: never seen by the model."
    ),
    "relay": (
        "Above the line, solid: patches that CLS gathers from (CLS row). Below, dashed: patches that read CLS (CLS "
        "column). Thickness is attention; the strongest are nearest the line."
    ),
    "concentration": (
        "Lines: mean over heads; bands: lowest to highest head; bars: patches that went after each layer "
        "(hatched: clamped to the target)."
    ),
}


def death_colours(n_layers: int) -> list[str]:
    """One colour per layer, dark early to light late, as `#rrggbb`."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in VIRIDIS])
    places = np.linspace(0, len(VIRIDIS) - 1, n_layers) if n_layers > 1 else np.array([0.0])
    channels = [np.interp(places, np.arange(len(VIRIDIS)), stops[:, channel]) for channel in range(3)]
    return ["#" + "".join(f"{round(channel[i]):02x}" for channel in channels) for i in range(n_layers)]


def facts(run: Run, record: FlowRecord, layer: int | None = None) -> str:
    """What a figure shows, in one line: model, cut (method, budget, variant, seed), layers and heads, precision."""
    layers = f"layer {layer} of 0–{record.n_layers - 1}" if layer is not None else f"layers 0–{record.layers[-1].layer}"
    heads = f"mean of {record.n_heads} heads"
    relay = [] if record.relay == "cls" else [f"{record.relay_name}: the mean query and value of the patches"]
    return " · ".join([f"model {run.model_id}", run.title, layers, heads, *relay, run.dtype])


def recorded(run: Run) -> FlowRecord:
    """The record of a run's picture, with layers in it.

    Raises:
        ValueError: the run was made without one.
    """
    if run.record is None:
        raise ValueError(f"The run “{run.title}” was made without a record: ask again with record=True.")
    return images_of(run.record, 0)[0]


def check_metric(name: str) -> None:
    """Raise ValueError with the list of metrics where there is none of this name."""
    if name not in METRICS:
        raise ValueError(f"The metric is {name!r}: choose one of {', '.join(METRICS)}.")


def patch_tiles(picture: Image, geometry: Geometry) -> list[Image]:
    """Every patch's own pixels as a small square; what lies outside the picture is black."""
    side = (TILE_SIDE, TILE_SIDE)
    corners = [tuple(round(edge) for edge in box) for box in geometry.boxes().tolist()]
    shown = picture.convert("RGB")
    return [
        shown.crop((left, top, max(right, left + 1), max(bottom, top + 1))).resize(side, Resampling.BILINEAR)
        for left, top, right, bottom in corners
    ]


def wrapped(text: str, line_break: str = "\n", length: int = LINE_LENGTH) -> str:
    """Text broken into lines."""
    return line_break.join(textwrap.wrap(text, length))
