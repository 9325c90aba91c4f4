"""The paper's findings beside what one run shows: each with its number, its rule and a verdict.

F4 is in `agreement`, beside what it is made of. All of them end at the layer whose output the language model reads:
what a deeper layer attends to reaches no answer, and in some models nothing ever trained it. One picture is one sample:
a verdict is of it, and of no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowcut.records.vision import CLS_ID
from flowcut_lens.analysis.depth import Density, FlowShares, Spread
from flowcut_lens.analysis.measures import Concentration, kendall_tau
from flowcut_lens.analysis.views import is_read

Verdict = Literal["holds", "half holds", "does not hold"]

TREND_AT = 0.3
"""Kendall's tau with depth from which on something is said to grow, and minus which to fall."""
FEW_HUBS = 0.1
"""Different main sources for each patch, at or below which patches are said to gather in hubs."""
LEADS_AT = 0.5
"""Share of the deeper layers in which CLS must be the largest hub, to be the relay."""
DENSER_AT, HARDLY_BELOW = 0.2, 0.05
"""Growth of the value norm per patch from which on patches are said to be denser, and below which they are not."""


@dataclass(frozen=True)
class Claim:
    """What the paper says beside what one run shows."""

    figure: str
    """The paper's figure, such as `F3`."""
    paper: str
    """What the paper says, one sentence."""
    run: str
    """What this run shows: the number, and the layers it is of."""
    rule: str
    """What is counted as `holds`, `half holds` and `does not hold`."""
    verdict: Verdict


def concentration_claim(unpruned: Concentration, what: str = "this picture") -> Claim:
    """Finding 2, layer-wise attention concentration (F3): the entropy of the CLS row, mean over heads, falls."""
    read = is_read(unpruned.layers, unpruned.last_read_layer)
    layers, entropy = unpruned.layers[read], unpruned.entropy_ratio.head_mean[read]
    return Claim(
        "F3",
        "Attention concentrates layer by layer, so redundancy emerges progressively (finding 2).",
        f"Unpruned, {what}, {layer_range(layers)}: {_trend_in_words('entropy of the CLS row', layers, entropy)}",
        _trend_rule("entropy", falls=True),
        trend_verdict(layers, -entropy),
    )


def spread_claims(unpruned: Spread, what: str = "this picture") -> tuple[Claim, Claim]:
    """F3 again, of all queries: attention reaches further with depth, and its entropy falls; means over heads."""
    read = is_read(unpruned.layers, unpruned.last_read_layer)
    layers, where = unpruned.layers[read], f"Unpruned, {what}, {layer_range(unpruned.layers[read])}"
    distance, entropy = (values[read].mean(axis=1) for values in (unpruned.distance, unpruned.entropy_ratio))
    further = Claim(
        "F3",
        "Attention distance grows with depth: deep layers read from all over the picture.",
        f"{where}: {_trend_in_words('attention distance', layers, distance, ' patches')}",
        _trend_rule("distance", falls=False),
        trend_verdict(layers, distance),
    )
    evenness = Claim(
        "F3",
        "The entropy of attention falls with depth: fewer tokens are read.",
        f"{where}: {_trend_in_words('entropy of all queries', layers, entropy)}",
        _trend_rule("entropy", falls=True),
        trend_verdict(layers, -entropy),
    )
    return further, evenness


def trend_verdict(layers: np.ndarray, values: np.ndarray) -> Verdict:
    """Whether values grow with depth: by Kendall's tau, and by the last layer against the first."""
    tau = kendall_tau(layers, values)
    if tau >= TREND_AT and values[-1] > values[0]:
        return "holds"
    return "does not hold" if tau <= 0 and values[-1] <= values[0] else "half holds"


def flow_claim(unpruned: FlowShares, relay: str = "cls", what: str = "this picture") -> Claim:
    """Finding 1, CLS as the relay (F2): deep patches read from few hubs, and CLS is the largest of them.

    Args:
        unpruned: of a run with all tokens.
        relay: as in `FlowRecord.relay`; nothing reads a proxy, so that the second half cannot hold with one.
        what: whose flow it is.
    """
    read = is_read(unpruned.layers, unpruned.last_read_layer)
    deeper = np.flatnonzero(read)[read.sum() // 2 :]
    hubs = float(np.median(unpruned.hubs[deeper] / unpruned.n_patches[deeper]))
    cls_leads = unpruned.largest_hub == CLS_ID
    leads, everywhere = int(cls_leads[deeper].sum()), unpruned.layers[read & cls_leads]
    in_words = f"CLS is the largest hub in {leads} of these {len(deeper)} (of all that are read: {_listed(everywhere)})"
    if relay == "proxy":
        in_words = "this encoder has no CLS, and nothing reads the proxy that stands for it"
    met = hubs <= FEW_HUBS, leads >= LEADS_AT * len(deeper)
    return Claim(
        "F2",
        "Patches come to read from a few hubs, and CLS relays between them (finding 1).",
        f"Unpruned, {what}, {layer_range(unpruned.layers[deeper])} (the deeper half of those that are read): "
        f"{hubs:.1%} as many different main sources as patches (median); {in_words}.",
        f"Holds: at most {FEW_HUBS:.0%} as many main sources as patches, and CLS the main source of more patches than "
        f"any other token in at least half of the deeper layers. Half holds: one of the two, or CLS leads somewhere. "
        "Does not hold: neither.",
        "holds" if all(met) else "half holds" if any(met) or leads else "does not hold",
    )


def density_claim(unpruned: Density, pruned: Density, what: str = "this picture") -> Claim | None:
    """F6: after pruning, each patch that is left carries more, at the layer that the language model reads.

    A criterion that prefers large value norms leaves larger ones behind by choice alone: what the same patches carried
    in the run with all tokens is told beside it.

    Args:
        unpruned: of a run with all tokens.
        pruned: of a pruned run of the same picture.
        what: whose patches they are.

    Returns:
        None where the run prunes behind this layer only: nothing that could tell has changed up to it.
    """
    at = int(np.flatnonzero(is_read(pruned.layers, pruned.last_read_layer))[-1])
    norms, kept = unpruned.value_norms[at], pruned.patch_ids[at]
    if len(kept) == len(norms):
        return None
    grown = float(pruned.value[at] / norms.mean() - 1)
    chosen = float(norms[np.isin(unpruned.patch_ids[at], kept)].mean() / norms.mean() - 1)
    denser = grown >= DENSER_AT and grown > chosen
    return Claim(
        "F6",
        "Pruning raises the information density: each patch that is left carries more.",
        f"{what[0].upper()}{what[1:]}, layer {pruned.layers[at]}: value norm per patch {_percent(grown)} "
        f"against the run with all tokens; the same {len(kept)} patches had {_percent(chosen)} there already.",
        f"Holds: {DENSER_AT:+.0%} or more, and more than by choice of the same patches. Does not hold: less than "
        f"{HARDLY_BELOW:+.0%}. Half holds: in between, or all of it by choice.",
        "holds" if denser else "does not hold" if grown < HARDLY_BELOW else "half holds",
    )


def layer_range(layers: np.ndarray) -> str:
    """Layers in words, first to last."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}"


def _listed(layers: np.ndarray) -> str:
    if not len(layers):
        return "none"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def _trend_in_words(name: str, layers: np.ndarray, values: np.ndarray, unit: str = "") -> str:
    """Its two ends and its extremes, Kendall's tau with depth, and how many steps go each way."""
    tau, steps = kendall_tau(layers, values), np.diff(values)
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    return (
        f"{name} (mean over heads) {values[0]:.2f}{unit} at the first, {values[-1]:.2f} at the last; lowest "
        f"{values[low]:.2f} at layer {layers[low]}, highest {values[high]:.2f} at layer {layers[high]}; Kendall's τ "
        f"with depth {_signed(tau)}, up at {(steps > 0).sum()} and down at {(steps < 0).sum()} of {len(steps)} steps."
    )


def _trend_rule(name: str, falls: bool) -> str:
    at, end = (f"τ ≤ −{TREND_AT}", "lower") if falls else (f"τ ≥ {TREND_AT}", "higher")
    against = "τ ≥ 0 and no lower" if falls else "τ ≤ 0 and no higher"
    return (
        f"Holds: {at} and the {name} {end} at the last of these layers than at the first. Does not hold: {against} "
        "there. Half holds: anything between."
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}%".replace("-", "−")
