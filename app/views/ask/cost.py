"""What an answer took, below it on its card: seconds by stage, visual tokens, memory and compute."""

from __future__ import annotations

from itertools import accumulate, groupby

from flowcut.criteria import METHODS
from flowcut.criteria.stages import DECODER, PICTURE, PROJECTOR
from flowcut.records.run import Run
from flowcut_lens.app.components.formatting import BYTE_UNITS, FLOP_UNITS, change, duration, scaled


def times_bar(run: Run, full: Run, longest: float, kind: str) -> str:
    """A bar on the scale of the slowest answer, the seconds of each stage in words, and what belongs to none."""
    times = run.times
    spent = [(stage, seconds) for stage, seconds in times.stages().items() if seconds > 0]
    bar = "".join(
        f'<span class="{stage}" style="width:{100 * seconds / longest:.2f}%"></span>' for stage, seconds in spent
    )
    lines = "".join(
        f'<div class="{stage}"><dt>{stage}</dt><dd>{duration(seconds)}</dd></div>' for stage, seconds in spent
    )
    delta = change(times.total, full.times.total)
    medians = f", medians of {times.runs} runs" if times.runs > 1 else ""
    total = f'<p class="lens-total"><b>{duration(times.total)}</b> from {kind} to last word{medians} {delta}</p>'
    bar = f'<div class="lens-bar" aria-hidden="true">{bar}</div>'
    below = "".join(f'<p class="lens-looking">{sentence}</p>' for sentence in _besides(run))
    return f'<div>{total}{bar}<dl class="lens-times">{lines}</dl>{below}</div>'


def _besides(run: Run) -> list[str]:
    """Wall time that no stage above has, and why the vision encoder took as long as it did."""
    times = run.times
    unread = run.record is not None and run.record.unread is not None
    recorded = "what the words attended to" if unread else "the flow shown below"
    outside = [f"besides, {duration(times.recording)} to record {recorded}"]
    if times.unassigned is not None:
        outside = [f"{outside[0]}, and {duration(times.unassigned)} of wall time that belong to no stage"]
    where = where_it_cuts(run)
    return [*outside, *([where] if where else [])]


def where_it_cuts(run: Run) -> str:
    """Through how much of the vision encoder all patches went; empty for the run with all tokens."""
    if run.cut is None or run.cut.stage is PICTURE:
        return ""
    if run.cut.stage in (PROJECTOR, DECODER):
        return f"It prunes {run.cut.stage.place}: the whole vision encoder runs on all patches."
    layers = [] if run.record is None else [step.layer for step in run.record.steps]
    if not layers:
        return ""
    if METHODS[run.cut.method].recipe is not None:
        return f"It prunes on the way, after vision layers {', '.join(map(str, layers))}: later ones have less to do."
    return (
        f"It prunes behind vision layer {layers[0]}: up to there the encoder runs on all patches, and its vision time "
        "is longer than that of a method that prunes on the way."
    )


def numbers(run: Run, full: Run, kind: str) -> str:
    """Visual tokens, KV cache and compute, and what an answer token takes of them, each against the full run."""
    kv, full_kv = sum(run.kv_bytes), sum(full.kv_bytes)
    entries = (
        ("Visual tokens", str(run.visual_tokens), change(run.visual_tokens, full.visual_tokens)),
        ("KV cache", scaled(kv, BYTE_UNITS), change(kv, full_kv)),
        ("Compute", scaled(run.flops.total, FLOP_UNITS), change(run.flops.total, full.flops.total)),
    )
    lines = "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{delta}</small></dd></div>" for name, value, delta in entries
    )
    return f'<dl class="lens-numbers">{lines}</dl>{_per_token(run, full)}{_counts(run, kind)}'


def _per_token(run: Run, full: Run) -> str:
    """All of it over the tokens of the answer, since a shorter answer, right or wrong, costs less in sum."""
    count, full_count = len(run.tokens), len(full.tokens)
    if not count or not full_count:
        return ""
    pairs = (
        (run.times.total, full.times.total, duration),
        (sum(run.kv_bytes), sum(full.kv_bytes), lambda value: f"{scaled(value, BYTE_UNITS)} of KV"),
        (run.flops.total, full.flops.total, lambda value: scaled(value, FLOP_UNITS)),
    )
    told = ", ".join(
        f"{in_words(value / count)} {change(value / count, whole / full_count)}".rstrip()
        for value, whole, in_words in pairs
    )
    sentences = f"Per answer token ({count}): {told}."
    if count != full_count:
        sentences += f" The full answer has {full_count}: totals favour the shorter, these the longer."
    return f'<p class="lens-looking" data-testid="per-token">{sentences}</p>'


def _counts(run: Run, kind: str) -> str:
    """The counts behind the number of visual tokens, where they differ from it; counted during the run."""
    counts = []
    if run.tower_tokens and run.tower_tokens != run.visual_tokens:
        counts.append(f"{run.tower_tokens} out of the vision encoder")
    if run.separator_tokens:
        what = "newlines" if kind == "picture" else "no patches (newlines, or the CLS tokens of frames)"
        hands_cls = run.cut is not None and run.cut.variant in METHODS[run.cut.method].hands_cls
        counts.append(
            "1 of the visual tokens is CLS, no patch"
            if hands_cls and run.separator_tokens == 1
            else f"{run.separator_tokens} of the visual tokens are {what}"
        )
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
