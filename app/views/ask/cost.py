"""What an answer took, below it on its card: seconds by stage, visual tokens, memory and compute."""

from __future__ import annotations

from dataclasses import fields
from itertools import accumulate, groupby

from flowcut.records.run import Run, Times
from flowcut_lens.app.components.formatting import BYTE_UNITS, FLOP_UNITS, change, duration, scaled

STAGES = tuple(field.name for field in fields(Times) if field.name != "recording")


def times_bar(times: Times, full: Times, longest: float, kind: str) -> str:
    """A bar on the scale of the slowest answer, and the seconds of each stage in words."""
    spent = [(stage, getattr(times, stage)) for stage in STAGES if getattr(times, stage) > 0]
    bar = "".join(
        f'<span class="{stage}" style="width:{100 * seconds / longest:.2f}%"></span>' for stage, seconds in spent
    )
    lines = "".join(
        f'<div class="{stage}"><dt>{stage}</dt><dd>{duration(seconds)}</dd></div>' for stage, seconds in spent
    )
    delta = change(times.total, full.total)
    total = f'<p class="lens-total"><b>{duration(times.total)}</b> from {kind} to last word {delta}</p>'
    recording = f'<p class="lens-looking">besides, {duration(times.recording)} to record the flow shown below</p>'
    bar = f'<div class="lens-bar" aria-hidden="true">{bar}</div>'
    return f'<div>{total}{bar}<dl class="lens-times">{lines}</dl>{recording}</div>'


def numbers(run: Run, full: Run, kind: str) -> str:
    """Visual tokens, KV cache and compute, each against the full run."""
    kv, full_kv = sum(run.kv_bytes), sum(full.kv_bytes)
    entries = (
        ("Visual tokens", str(run.visual_tokens), change(run.visual_tokens, full.visual_tokens)),
        ("KV cache", scaled(kv, BYTE_UNITS), change(kv, full_kv)),
        ("Compute", scaled(run.flops.total, FLOP_UNITS), change(run.flops.total, full.flops.total)),
    )
    lines = "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{delta}</small></dd></div>" for name, value, delta in entries
    )
    return f'<dl class="lens-numbers">{lines}</dl>{_counts(run, kind)}'


def _counts(run: Run, kind: str) -> str:
    """The counts behind the number of visual tokens, where they differ from it; counted during the run."""
    counts = []
    if run.tower_tokens and run.tower_tokens != run.visual_tokens:
        counts.append(f"{run.tower_tokens} out of the vision encoder")
    if run.separator_tokens:
        what = "newlines" if kind == "picture" else "no patches (newlines, or the CLS tokens of frames)"
        counts.append(f"{run.separator_tokens} of the visual tokens are {what}")
    if len(set(run.layer_tokens)) > 1:
        counts.append(f"prompt tokens read by decoder {tokens_by_layer(run.layer_tokens)}")
    return f'<p class="lens-looking" data-testid="counts">{"; ".join(counts)}</p>' if counts else ""


def tokens_by_layer(counts: tuple[int, ...]) -> str:
    """Counts by layer in words, neighbours that are equal as one: `layers 0-1: 340, layers 2-31: 180`."""
    runs = [(number, len(list(same))) for number, same in groupby(counts)]
    ends = list(accumulate(length for _, length in runs))
    return ", ".join(
        f"layer {end - 1}: {number}" if length == 1 else f"layers {end - length}–{end - 1}: {number}"
        for (number, length), end in zip(runs, ends, strict=True)
    )
