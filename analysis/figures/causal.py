"""Figures of the causal check: rankings against knock-outs, deletion and insertion curves, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from flowcut_lens.analysis.causal import Agreement, Band, flip_point
from flowcut_lens.analysis.figures.compare_template import (
    NEUTRAL,
    add_band,
    finished,
    how_to_read_all,
    line_and_marker,
    number,
    style_of,
)


def causal_bars(agreements: Mapping[str, Agreement], facts: str) -> go.Figure:
    """Which criterion ranks the patches most like single knock-outs do, best first.

    How to read: each dot is the rank correlation of one criterion with how far the answer's log-prob moves, up or down,
    when a patch (or block) alone is taken away (1: same order, 0: unrelated, −1: opposite), the bar its 95 % bootstrap
    interval over patches of this one picture. They are drawn one by one as if they were independent; neighbours show
    one object together, so that the true intervals are wider. Intervals that overlap a lot do not separate two
    criteria. Most single patches can be spared, so that this is mostly an order of very small numbers.
    """
    return _agreement_bars(
        agreements, facts, "Spearman's ρ with the absolute log-prob change", "Which ranking agrees with the knock-outs?"
    )


def subset_bars(agreements: Mapping[str, Agreement], facts: str) -> go.Figure:
    """Which criterion ranks the blocks most like what they add to the answer among random sets, best first.

    How to read: each dot is the rank correlation of one criterion with what a block adds to the log-odds of the answer
    among random sets of the budget's size (1: same order, 0: unrelated, −1: opposite), the bar its 95 % bootstrap
    interval over blocks of this one picture, drawn one by one as if they were independent: the true intervals are
    wider. No criterion can be expected to reach more than about the square root of
    the reliability; the random draws show what chance does.
    """
    return _agreement_bars(
        agreements, facts, "Spearman's ρ with what a block adds", "Which ranking agrees with what blocks add?"
    )


def settling(sets: np.ndarray, reliability: np.ndarray, wanted: float, facts: str) -> go.Figure:
    """How reliable the estimate of what blocks add is, as more random sets are read.

    How to read: reliability is foretold from the agreement of two halves of the sets (Spearman, then Spearman-Brown):
    1 would come out the same again, 0 is noise. Dotted: where the study ends by itself. Blocks that add nothing are in
    no true order, so that it never reaches 1.

    Args:
        sets: int [E], random sets read at each estimate.
        reliability: float [E].
        wanted: at which the study ends.
        facts: of the figure.
    """
    figure = go.Figure(
        go.Scatter(
            x=sets, y=reliability, name="reliability", **line_and_marker(0, 7),
            hovertemplate="%{x} sets: reliability %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    line = {"color": NEUTRAL, "dash": "dot", "width": 1}
    figure.add_hline(
        y=wanted, line=line, annotation_text="ends here", annotation_font_size=11,
        annotation_position="bottom left",
    )  # fmt: skip
    figure.update_xaxes(title="random sets read", rangemode="tozero")
    figure.update_yaxes(title="reliability", range=[min(-0.05, float(np.nanmin(reliability, initial=0)) - 0.05), 1.02])
    return finished(figure, "How far the estimate has settled", facts, 260)


def _agreement_bars(agreements: Mapping[str, Agreement], facts: str, axis: str, title: str) -> go.Figure:
    known = [(name, found) for name, found in agreements.items() if np.isfinite(found.value)]
    unknown = [name for name, found in agreements.items() if not np.isfinite(found.value)]
    known.sort(key=lambda pair: pair[1].value)
    names = unknown + [name for name, _ in known]
    values = np.array([found.value for _, found in known])
    low, high = (np.array([getattr(found, end) for _, found in known]) for end in ("low", "high"))
    colour, symbol, _ = style_of(0)
    figure = go.Figure(
        go.Scatter(
            x=values, y=[name for name, _ in known], mode="markers+text", text=[_signed(value) for value in values],
            textposition="top center", textfont={"size": 11}, cliponaxis=False,
            customdata=np.stack([low, high], axis=-1),
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_x={"type": "data", "array": high - values, "arrayminus": values - low, "symmetric": False,
                     "color": colour, "thickness": 2, "width": 5},
            hovertemplate="%{y}: %{x:+.2f}, 95% interval %{customdata[0]:+.2f} to %{customdata[1]:+.2f}<extra></extra>",
        )
    )  # fmt: skip
    for name in unknown:
        figure.add_annotation(x=0, y=name, text="ranks no patches", showarrow=False, font={"size": 11}, xanchor="left")
    figure.add_vline(x=0, line={"color": NEUTRAL, "dash": "dot"})
    ends = [-0.1, 0.1, *low[np.isfinite(low)], *high[np.isfinite(high)]]
    spare = 0.08 * (max(ends) - min(ends))
    reach = [max(-1.05, min(ends) - spare), min(1.05, max(ends) + spare)]
    figure.update_xaxes(title=axis, range=reach)
    figure.update_yaxes(categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.3])
    return finished(figure, title, facts, 60 + 34 * max(len(names), 2))


def removal_curves(
    removed: np.ndarray,
    curves: Mapping[str, np.ndarray],
    facts: str,
    kind: Literal["deletion", "insertion"] = "deletion",
    random: Band | None = None,
    full: float | None = None,
    no_image: float | None = None,
) -> go.Figure:
    """The answer's log-prob as patches are removed (or shown), each criterion's highest-ranked first.

    How to read: deletion: the faster a curve falls, the more of what the answer needs was ranked high; insertion: the
    faster it rises. Grey band: the lowest to highest of random orders, dashed their mean; a criterion inside the band
    does no better than chance here.

    Args:
        removed: float [F], share of the patches removed (insertion: shown).
        curves: by criterion, float [F], ln p of the answer.
        facts: of the figure.
        kind: which of the two.
        random: orders drawn at random, at the same shares.
        full: ln p with the full picture.
        no_image: ln p with no visual token.
    """
    figure = go.Figure()
    share = 100 * np.asarray(removed)
    if random is not None:
        add_band(figure, share, random.low, random.high, NEUTRAL, f"random: {random.seeds} seeds")
        line = {"color": NEUTRAL, "dash": "dash", "width": 1.5}
        figure.add_scatter(x=share, y=random.mean, mode="lines", line=line, name="random: mean")
    for index, (name, curve) in enumerate(curves.items()):
        hover = f"{name}<br>%{{x:.0f}}% of patches: ln p %{{y:.2f}}<extra></extra>"
        figure.add_scatter(x=share, y=curve, name=name, hovertemplate=hover, **line_and_marker(index, 6))
    sides = ("top right", "top left") if kind == "deletion" else ("top left", "top right")
    for level, words, side in ((full, "full picture", sides[0]), (no_image, "no picture", sides[1])):
        if level is not None:
            figure.add_hline(
                y=level, line={"color": NEUTRAL, "dash": "dot", "width": 1}, annotation_text=words,
                annotation_position=side, annotation_font_size=11,
            )  # fmt: skip
    what = "removed" if kind == "deletion" else "shown"
    figure.update_xaxes(title=f"patches {what}, highest-ranked first (%)", range=[-2, 102])
    figure.update_yaxes(title="ln p of the answer")
    title = (
        "Deletion: the highest-ranked go first" if kind == "deletion" else "Insertion: the highest-ranked come first"
    )
    return finished(figure, title, facts, 400)


def removal_areas(
    deletion: Mapping[str, float],
    insertion: Mapping[str, float],
    facts: str,
    random_deletion: Sequence[float] = (),
    random_insertion: Sequence[float] = (),
) -> go.Figure:
    """The areas under both curves of each criterion, the widest gap first.

    How to read: 1 is the log-prob with the full picture, 0 with none. Left-pointing triangle: area under deletion (low
    is good), right-pointing: under insertion (high is good); the longer the line between them to the right, the better
    the order. Grey bands: what random orders reach, deletion hatched by a dotted edge.
    """
    names = sorted(deletion, key=lambda name: _rank_gap(insertion[name] - deletion[name]))
    figure = go.Figure()
    for values, words, dash in ((random_deletion, "deletion", "dot"), (random_insertion, "insertion", "solid")):
        if len(values):
            figure.add_vrect(
                x0=min(values), x1=max(values), fillcolor=NEUTRAL, opacity=0.25, line={"color": NEUTRAL, "dash": dash},
                name=f"random: {words}", showlegend=True,
            )  # fmt: skip
    for name in names:
        figure.add_scatter(
            x=[deletion[name], insertion[name]], y=[name, name], mode="lines", line={"color": NEUTRAL, "width": 2},
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    for index, (found, words, symbol) in enumerate(
        ((deletion, "deletion", "triangle-left"), (insertion, "insertion", "triangle-right"))
    ):
        figure.add_scatter(
            x=[found[name] for name in names], y=names, mode="markers", name=words,
            marker={"symbol": symbol, "size": 12, "color": style_of(1 - index)[0]},
            hovertemplate=f"%{{y}}, {words}: %{{x:.2f}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="area under the curve (0: no picture, 1: full picture)")
    figure.update_yaxes(range=[-0.6, len(names) - 0.2])
    return finished(figure, "Areas under deletion and insertion", facts, 90 + 30 * max(len(names), 2))


def _rank_gap(gap: float) -> float:
    return gap if np.isfinite(gap) else -np.inf


def budget_sweep(
    tokens: np.ndarray,
    logprobs: Mapping[str, np.ndarray],
    exact_match: Mapping[str, np.ndarray],
    facts: str,
    random: Band | None = None,
    random_same: np.ndarray | None = None,
    full: float | None = None,
) -> go.Figure:
    """The answer's log-prob from all tokens down to few, per criterion, with the places where another answer came.

    How to read: from left to right fewer tokens are kept. Filled marks: the same answer is written; open crosses:
    another one. The arrow names the largest budget that changes it; filled marks to the right of it are answers that
    came back. Grey band: lowest to highest of random draws, with the share of them that keep the answer.

    Args:
        tokens: int [K], budgets.
        logprobs: by criterion, float [K], ln p of the full answer; NaN: not measured.
        same: by criterion, bool [K], whether the same answer is written.
        facts: of the figure.
        random: log-probs of random draws at these budgets.
        random_same: float [K], share of the random draws that keep the answer.
        full: ln p with all tokens.
    """
    figure = go.Figure()
    if random is not None:
        add_band(figure, tokens, random.low, random.high, NEUTRAL, f"random: {random.seeds} seeds")
        words = None if random_same is None else [f"{share:.0%} keep the answer" for share in random_same]
        figure.add_scatter(
            x=tokens, y=random.mean, mode="lines", name="random: mean", text=words,
            line={"color": NEUTRAL, "dash": "dash", "width": 1.5},
            hovertemplate="random: mean, %{x} tokens: ln p %{y:.2f}<br>%{text}<extra></extra>",
        )  # fmt: skip
    for index, name in enumerate(logprobs):
        _add_sweep(
            figure, index, name, np.asarray(tokens), np.asarray(logprobs[name]), np.asarray(exact_match[name], bool)
        )
    if full is not None:
        line = {"color": NEUTRAL, "dash": "dot", "width": 1}
        figure.add_hline(y=full, line=line, annotation_text="all tokens", annotation_font_size=11)
    ticks = np.unique(tokens)
    figure.update_xaxes(
        title="visual tokens kept (logarithmic)", type="log", autorange="reversed", tickvals=ticks,
        ticktext=[str(tick) for tick in ticks], tickangle=0,
    )  # fmt: skip
    figure.update_yaxes(title="ln p of the full answer")
    return finished(figure, "Budget sweep: how few tokens keep the answer", facts, 430)


def _add_sweep(
    figure: go.Figure, index: int, name: str, tokens: np.ndarray, logprob: np.ndarray, exact_match: np.ndarray
) -> None:
    measured = np.isfinite(logprob)
    order = np.argsort(-tokens[measured], kind="stable")
    budgets, values, held = (array[measured][order] for array in (tokens, logprob, exact_match))
    style, (colour, symbol, _) = line_and_marker(index), style_of(index)
    figure.add_scatter(
        x=budgets, y=values, name=name, legendgroup=name, mode="lines+markers", line=style["line"],
        marker={"symbol": [symbol if kept else "x-thin-open" for kept in held], "size": 9, "color": colour,
                "line": {"width": [0 if kept else 2 for kept in held], "color": colour}},
        text=["same answer" if kept else "another answer" for kept in held],
        hovertemplate=f"{name}, %{{x}} tokens: ln p %{{y:.2f}}<br>%{{text}}<extra></extra>",
    )  # fmt: skip
    found = flip_point(budgets, held)
    if found.flips_at is not None:
        place = int(np.flatnonzero(budgets == found.flips_at)[0])
        figure.add_annotation(
            x=float(np.log10(found.flips_at)), y=float(values[place]), text=f"{found.flips_at}", showarrow=True,
            arrowhead=2, arrowcolor=colour, font={"color": colour, "size": 12}, ax=0, ay=-26 - 14 * (index % 3),
            hovertext=f"{name}: another answer at {found.flips_at} tokens", bordercolor=colour, borderpad=1,
        )  # fmt: skip


def _signed(value: float) -> str:
    return ("+" if value >= 0.005 else "") + number(value)


HOW_TO_READ = how_to_read_all((causal_bars, subset_bars, settling, removal_curves, removal_areas, budget_sweep))
