"""What drawings of one run share, on the stage, on the screen and on paper: colours, captions, facts of the run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from flowcut_lens.analysis.views import NOT_READ

if TYPE_CHECKING:
    from flowcut.records.run import Run
    from flowcut.records.vision import FlowRecord

# Okabe and Ito's palette (2008); dash patterns, markers and sides of the drawing say the same without colour.
INFLOW = "#0072B2"
OUTFLOW = "#D55E00"
FULL = "#4D4D4D"
PRUNED = "#AA4499"

RUN_STYLES = ((FULL, PRUNED), ("solid", "dash"), ("circle", "square-open"))
"""Colours, dash patterns and markers of the unpruned and the pruned run."""

FIGURE_EDGES = 12
"""Edges per layer and direction in a figure that shows all layers at once."""

TILE_HEIGHT = 0.062
"""Of a patch in the relay graph, in the layout's units."""

LINE_LENGTH = 110

VIRIDIS = ("#440154", "#443983", "#31688E", "#21918C", "#35B779", "#90D743", "#FDE725")
"""Seven even steps of viridis, dark to light for every kind of colour vision."""

HOW_TO_READ = {
    "mask": (
        "Pruned patches are dimmed, or coloured by the layer after which they were pruned (the number says which); "
        "what the model never saw is hatched."
    ),
    "mask_figure": (
        "Pruned patches are coloured by the layer after which they were pruned (the number says which); patches in the "
        "picture's own colours are kept; grey or hatched: never seen by the model."
    ),
    "relay": (
        "Above the line, solid: patches that CLS gathers from (CLS row). Below, dashed: patches that read CLS (CLS "
        "column). The strongest are nearest the line."
    ),
    "relay_figure": (
        "Thickness is attention, on one scale for all layers and both directions: full for the strongest edge of the "
        "layers that the language model reads."
    ),
    "concentration": (
        "Lines: mean over heads; bands: lowest to highest head; bars: patches pruned after each layer "
        "(hatched: clamped to the target). Shaded: layers behind the one whose output the language model reads."
    ),
}


def layer_colours(n_layers: int) -> list[str]:
    """One colour per layer, dark early to light late, as `#rrggbb`."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in VIRIDIS])
    places = np.linspace(0, len(VIRIDIS) - 1, n_layers) if n_layers > 1 else np.array([0.0])
    channels = [np.interp(places, np.arange(len(VIRIDIS)), stops[:, channel]) for channel in range(3)]
    return ["#" + "".join(f"{round(channel[i]):02x}" for channel in channels) for i in range(n_layers)]


def facts(run: Run, record: FlowRecord, layer: int | None = None) -> str:
    """What a figure shows, in one line: model, cut (method, budget, variant, seed), layers and heads, precision."""
    layers = layers_in_words(record) if layer is None else f"layer {layer} of 0–{record.n_layers - 1}"
    heads = f"mean of {record.n_heads} heads"
    relay = [] if record.relay == "cls" else [f"{record.relay_name}: the mean query and value of the patches"]
    return " · ".join([f"model {run.model_id}", run.title, layers, heads, *relay, run.dtype])


def layers_in_words(record: FlowRecord) -> str:
    """The layers of a figure: those that lead to what the language model reads, and those behind them."""
    last, read = record.layers[-1].layer, min(record.last_read_layer, record.layers[-1].layer)
    if read == last:
        return f"layers 0–{last}"
    behind = f"layer {last}" if last == read + 1 else f"layers {read + 1}–{last}"
    return f"layers 0–{read} ({behind}: {NOT_READ})"


def wrapped(text: str, line_break: str = "\n", length: int = LINE_LENGTH) -> str:
    """Text broken into lines."""
    return line_break.join(textwrap.wrap(text, length))
