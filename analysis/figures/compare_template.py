"""The template of the Compare page's figures, for light and dark pages; nothing is told apart by colour alone.

Backgrounds are clear and fonts are the page's own. Colours are Okabe and Ito's (2008) where things are told apart,
cividis where there is more or less of something, and blue to orange where it goes both ways; symbols, dashes, numbers
or places say the same again. Every figure carries its facts (model, layers, heads, variant, budget, seed) below its
title, and says how to read it in its function's docstring (`how_to_read`).
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from scipy.stats import rankdata

from flowcut_lens.analysis.data_url import picture_url
from flowcut_lens.analysis.figures.run_style import wrapped
from flowcut_lens.analysis.geometry import grid_box
from flowcut_lens.analysis.views import NOT_READ

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.vision import Geometry

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
"""Okabe and Ito without black and yellow, which vanish on a dark and on a light page."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "triangle-down", "pentagon", "hourglass", "hexagram")
"""No crosses: those stand for what is lost or contradicted."""
DASHES = ("solid", "dash", "dot", "dashdot")

NEUTRAL = "#8A8A8A"
GRID = "rgba(128,128,128,0.25)"
CLEAR = "rgba(0,0,0,0)"
MORE = "Cividis"
"""Colour scale for amounts."""
BOTH_WAYS = ((0.0, "#0072B2"), (0.5, "#F2F2F2"), (1.0, "#D55E00"))
"""Colour scale from -1 to 1."""

FACTS_LENGTH = 105
PLOT_WIDTH = 820
"""Pixels across a figure's axes, more or less: the page decides."""
PICTURE_SIDE = 512
"""Pixels of the longest side of a picture inside a figure."""


def style_of(index: int) -> tuple[str, str, str]:
    """Colour, symbol and dash of the index-th thing: no two of the first 28 are the same."""
    colour, symbol = COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]
    return colour, symbol, DASHES[index // len(COLOURS) % len(DASHES)]


def line_and_marker(index: int, size: int = 7) -> dict[str, Any]:
    """Keywords of a scatter trace with lines and markers."""
    colour, symbol, dash = style_of(index)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash, "width": 1.8},
        "marker": {"color": colour, "symbol": symbol, "size": size},
    }


def see_through(colour: str, opacity: float) -> str:
    """`#rrggbb` as `rgba(...)`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def add_band(
    figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, name: str, **where: Any
) -> None:
    """A shaded band between two curves; places where either is not a number are left out."""
    known = np.isfinite(low) & np.isfinite(high)
    x, low, high = np.asarray(x)[known], np.asarray(low)[known], np.asarray(high)[known]
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines", line_width=0,
        fillcolor=see_through(colour, 0.2), name=name, hoverinfo="skip", **where,
    )  # fmt: skip


def layer_axis(layers: np.ndarray) -> dict[str, Any]:
    """An axis of vision layers."""
    return {"title": {"text": "vision layer"}, "dtick": 1 if len(layers) <= 16 else 2, "zeroline": False}


def mark_unread(figure: go.Figure, layers: np.ndarray, last_read_layer: float, over: bool = False) -> None:
    """Set apart the layers behind the one whose output the language model reads, in all panels; often there are none.

    Args:
        figure: by layer, along x.
        layers: int [L], those that are drawn.
        last_read_layer: the last that is read.
        over: whether the band lies over what is drawn (a field of numbers hides what is below it).
    """
    if layers[-1] <= last_read_layer:
        return
    first, last = last_read_layer + 0.5, layers[-1] + 0.5
    aside = {"textangle": -90, "xanchor": "center", "yanchor": "middle", "x": (first + last) / 2, "y": 0.5}
    above = {"textangle": 0, "xanchor": "right", "yanchor": "bottom", "x": last, "y": 1.0}
    figure.add_vrect(
        x0=first, x1=last, fillcolor=NEUTRAL, opacity=0.45 if over else 0.22, layer="above" if over else "below",
        line={"color": NEUTRAL, "width": 1, "dash": "dot"},
        annotation={"text": NOT_READ, "font": {"size": 11}, **(above if over else aside)},
    )  # fmt: skip


def picture_source(picture: Image, geometry: Geometry) -> str:
    """What of a picture lies under the patch grid, as a data URL no larger than a figure needs."""
    left, top, right, bottom = (round(edge) for edge in grid_box(geometry))
    under = picture.convert("RGB").crop((left, top, right, bottom))  # black where the encoder saw padding
    return picture_url(under, PICTURE_SIDE, "PNG")


def centres(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] each, x and y of every patch's centre in original pixels."""
    boxes = geometry.boxes()
    return boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)


class Panels:
    """Small copies of the patch grid in rows on ONE pair of axes, in original pixels: twenty are as quick as one.

    The first panel lies where the patches lie in the picture; the others are moved right and down.
    """

    def __init__(
        self, geometry: Geometry, count: int, columns: int = 1, titled: bool = True, spread: bool = True
    ) -> None:
        """`spread`: whether panels that do not fill a row take all of its width; else they stay as small as in one."""
        self.geometry = geometry
        self.count = count
        self.columns = min(columns, count) if spread else columns
        self.rows = -(-count // self.columns)
        left, top, right, bottom = grid_box(geometry)
        self.corner, self.size = (left, top), (right - left, bottom - top)
        pixel = self.size[0] * self.columns / PLOT_WIDTH
        self.gap, self.head = 8 * pixel, 22 * pixel if titled else 0.0

    @property
    def height(self) -> int:
        """Pixels, where the figure is as wide as it usually is."""
        pixel = self.size[0] * self.columns / PLOT_WIDTH
        return round(self.rows * (self.size[1] + self.gap + self.head) / pixel)

    def shift(self, panel: int) -> tuple[float, float]:
        """How far a panel lies to the right of the first, and below it."""
        row, column = divmod(panel, self.columns)
        return column * (self.size[0] + self.gap), row * (self.size[1] + self.gap + self.head)

    def centres(self, panel: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all patches in a panel, float64 [N] each."""
        (x, y), (right, down) = centres(self.geometry), self.shift(panel)
        return x + right, y + down

    def grid(self, values: np.ndarray, panel: int) -> dict[str, np.ndarray]:
        """Keywords x, y, z of a heat map that lays one value per patch on a panel."""
        x, y = self.centres(panel)
        shape = self.geometry.grid_rows, self.geometry.grid_cols
        return {"x": x.reshape(shape)[0], "y": y.reshape(shape)[:, 0], "z": np.asarray(values, float).reshape(shape)}

    def lay(
        self,
        figure: go.Figure,
        titles: Sequence[str] = (),
        source: str | None = None,
        pictured: Sequence[int] = (),
        opacity: float = 1.0,
    ) -> None:
        """The axes, the panels' titles, and the picture under some panels.

        Args:
            figure: to be drawn on.
            titles: of the panels; none, or one for each.
            source: from `picture_source`; None: no picture.
            pictured: the panels that show it.
            opacity: of the picture.
        """  # fmt: skip
        (left, top), (width, height) = self.corner, self.size
        images, words = [], []
        for panel in pictured if source is not None else ():
            right, down = self.shift(panel)
            images.append(
                {"source": source, "xref": "x", "yref": "y", "x": left + right, "y": top + down, "sizex": width,
                 "sizey": height, "sizing": "stretch", "layer": "below", "opacity": opacity}
            )  # fmt: skip
        for panel, title in enumerate(titles):
            right, down = self.shift(panel)
            words.append(
                {"text": title, "x": left + right + width / 2, "y": top + down, "xref": "x", "yref": "y",
                 "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
            )  # fmt: skip
        last_right, last_down = self.shift(self.columns - 1)[0], self.shift(self.count - 1)[1]
        figure.update_layout(
            images=images, annotations=words,
            xaxis={"visible": False, "range": [left, left + last_right + width], "constrain": "domain",
                   "constraintoward": "left"},
            yaxis={"visible": False, "range": [top + last_down + height, top - self.head], "constrain": "domain",
                   "constraintoward": "top", "scaleanchor": "x"},
        )  # fmt: skip


def patch_hover(geometry: Geometry, notes: Sequence[str] | None = None) -> np.ndarray:
    """[rows, cols] of words for hovering: each patch's id, and a note."""
    count = geometry.grid_rows * geometry.grid_cols
    words = [f"patch {patch}" + (f"<br>{notes[patch]}" if notes else "") for patch in range(count)]
    return np.array(words, dtype=object).reshape(geometry.grid_rows, geometry.grid_cols)


def number(value: float, digits: int = 2) -> str:
    """A number in a figure: a minus sign and no minus nought; nothing for NaN."""
    return "" if np.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def percentile(values: np.ndarray) -> np.ndarray:
    """0 for the lowest to 100 for the highest, ties sharing their mean; NaN stays."""
    ranks = rankdata(values, nan_policy="omit")
    return np.asarray(100 * (ranks - 1) / max(int((~np.isnan(ranks)).sum()) - 1, 1))


def finished(figure: go.Figure, title: str, facts: str, height: int, panel_titles: bool = False) -> go.Figure:
    """The template, the title, and the facts in small letters below it.

    Args:
        figure: drawn.
        title: one line.
        facts: what the figure is of; broken into lines.
        height: pixels without title and facts.
        panel_titles: whether titles of panels stand above the axes.
    """
    lines = wrapped(html.escape(facts, quote=False), "<br>", FACTS_LENGTH)
    above = 62 + 15 * (lines.count("<br>") + 1) + (20 if panel_titles else 0)
    figure.update_layout(
        title={
            "text": title, "x": 0, "xref": "container", "xanchor": "left", "y": 1 - 16 / (height + above),
            "yref": "container", "yanchor": "top", "font": {"size": 15},
            "subtitle": {"text": lines, "font": {"size": 11}},
        },
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=height + above,
        margin={"t": above, "l": 64, "r": 16, "b": 48}, hoverlabel={"align": "left"},
    )  # fmt: skip
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID, automargin=True)
    return figure


def how_to_read(draw: Callable[..., go.Figure]) -> str:
    """The line of a figure function's docstring that says how to read its figure.

    Raises:
        ValueError: the docstring has none.
    """
    for paragraph in (inspect.getdoc(draw) or "").split("\n\n"):
        if paragraph.startswith("How to read: "):
            line = " ".join(paragraph.removeprefix("How to read: ").split())
            return line[0].upper() + line[1:]
    raise ValueError(f"{draw.__name__} does not say how to read its figure.")


def how_to_read_all(draws: Sequence[Callable[..., go.Figure]]) -> dict[str, str]:
    """`how_to_read` of several figures, by the function's name."""
    return {draw.__name__: how_to_read(draw) for draw in draws}
