"""The paper's findings on constructed records: the verdict follows from the numbers, and stops at what is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flowcut.cut import FlowCut
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.agreement import contradiction_claim, norm_agreement
from flowcut_lens.analysis.depth import density, flow_shares, spread
from flowcut_lens.analysis.findings import (
    Claim,
    concentration_claim,
    density_claim,
    flow_claim,
    spread_claims,
    trend_verdict,
)
from flowcut_lens.analysis.measures import Curve, concentration
from tests.analysis import synthetic

ENCODER = synthetic.Encoder(grid=6, n_layers=6, n_heads=2)
"""The language model reads layer 4 of 0 to 5."""
FULL = synthetic.flow_record(ENCODER)
NOISE = 1e3
"""What stands in layer 5, which nothing may look at."""


def changed(record: FlowRecord, change: Callable[[int], dict[str, Any]]) -> FlowRecord:
    """The record with fields of each layer in place of its own."""
    layers = tuple(replace(layer, **change(index)) for index, layer in enumerate(record.layers))
    return replace(record, layers=layers)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.5, 0.6, 0.8, 0.9], "holds"),
        ([0.9, 0.8, 0.7, 0.5], "does not hold"),
        ([0.7, 0.6, 0.8, 0.9], "holds"),
        ([0.7, 0.9, 0.8, 0.7], "does not hold"),
        ([0.7, 0.9, 0.8, 0.71], "half holds"),
        ([0.9, 0.6, 0.7, 0.8, 0.85], "half holds"),
        ([0.7], "does not hold"),
    ],
)
def test_a_trend_needs_tau_and_both_ends(values: list[float], verdict: str) -> None:
    assert trend_verdict(np.arange(len(values)), np.array(values)) == verdict


@pytest.mark.parametrize(
    ("entropy", "verdict"),
    [([0.9, 0.8, 0.7, 0.6, 0.5], "holds"), ([0.5, 0.6, 0.7, 0.8, 0.9], "does not hold"), ([0.8, 0.5, 0.6, 0.7, 0.79],
     "half holds")],
)  # fmt: skip
@pytest.mark.parametrize("behind", [0.0, 1.0])
def test_concentration_ends_at_the_layer_that_is_read(entropy: list[float], verdict: str, behind: float) -> None:
    measured = concentration(FULL)
    curve = Curve(np.array([*entropy, behind])[:, None], measured.entropy_ratio.pooled)
    claim = concentration_claim(replace(measured, entropy_ratio=curve), "frame 3")
    assert claim.verdict == verdict
    assert "frame 3, layers 0–4" in claim.run
    assert f"{entropy[-1]:.2f} at the last" in claim.run
    all_read = replace(measured, entropy_ratio=curve, last_read_layer=5)
    assert f"{behind:.2f} at the last" in concentration_claim(all_read).run


def test_distance_and_entropy_of_all_queries() -> None:
    further = [1.0, 2.0, 1.5, 3.0, 4.0, NOISE]
    record = changed(
        FULL,
        lambda index: {
            "attention_distance": np.full((1, 2), further[index], np.float32),
            "row_entropy": np.full((1, 2), np.log(37) * (0.2 + 0.1 * index), np.float32),
        },
    )
    distance, entropy = spread_claims(spread(record))
    assert distance.verdict == "holds"
    assert "1.00 patches at the first, 4.00 at the last" in distance.run
    assert "τ with depth +0.80, up at 3 and down at 1 of 4 steps" in distance.run
    assert entropy.verdict == "does not hold"
    assert "lowest 0.20 at layer 0, highest 0.60 at layer 4" in entropy.run


def sources(ids: Sequence[int]) -> dict[str, Any]:
    """Main sources of CLS and the 36 patches: patch p has that of place p in turn."""
    found = np.tile(np.asarray(ids), 37)[:37]
    top = np.full((1, 37, 4), -2)
    top[0, 1:, 0] = found[:36]
    return {"top_source_ids": top}


OWN_NEIGHBOURS = [*range(1, 36), 0]
"""Every patch reads the next one: as many hubs as patches."""


@pytest.mark.parametrize(
    ("deeper", "verdict", "leads"),
    [
        ([[-1, -1, 7], [-1, 7, -1], [-1]], "holds", "3 of these 3"),
        ([[-1, -1, 7], [7, 8, 8], [9, 7]], "half holds", "1 of these 3"),
        ([[7], [8], [9]], "half holds", "0 of these 3"),
        ([OWN_NEIGHBOURS, OWN_NEIGHBOURS, [-1]], "half holds", "1 of these 3"),
        ([OWN_NEIGHBOURS] * 3, "does not hold", "0 of these 3"),
    ],
)
def test_hubs_and_the_relay(deeper: list[list[int]], verdict: str, leads: str) -> None:
    record = changed(FULL, lambda index: sources([OWN_NEIGHBOURS, OWN_NEIGHBOURS, *deeper, [-1]][index]))
    claim = flow_claim(flow_shares(record))
    assert claim.verdict == verdict
    assert "layers 2–4 (the deeper half" in claim.run
    assert leads in claim.run


def test_a_proxy_is_no_relay() -> None:
    record = changed(FULL, lambda index: sources([7]))
    claim = flow_claim(flow_shares(record), relay="proxy")
    assert claim.verdict == "half holds"
    assert "nothing reads the proxy" in claim.run


def ranked(orders: dict[str, Callable[[int], np.ndarray]]) -> FlowRecord:
    """A record whose layers rank 36 patches by given values for attention, similarity and value norm."""

    def of(index: int) -> dict[str, Any]:
        cls, similarity, norm = (orders[name](index) for name in ("cls", "similarity", "norm"))
        return {
            "cls_row": np.concatenate([[0], cls / cls.sum()])[None, None].repeat(2, axis=1),
            "similarity": np.concatenate([[0], similarity / similarity.sum()])[None],
            "value_norm": np.concatenate([[0], norm])[None],
        }

    return changed(FULL, of)


def high(start: int) -> np.ndarray:
    """Nine patches from one on are ranked high, the others low."""
    return np.where((np.arange(36) - start) % 36 < 9, 5.0, 1.0) + np.arange(36) * 1e-3


@pytest.mark.parametrize(
    ("layers_move", "criteria_differ", "verdict"),
    [(9, 9, "holds"), (9, 0, "half holds"), (0, 9, "half holds"), (0, 0, "does not hold")],
)
def test_contradictions_between_layers_and_between_criteria(
    layers_move: int, criteria_differ: int, verdict: str
) -> None:
    record = ranked(
        {
            "cls": lambda index: high(index * layers_move) ** 4,  # decides the layer's score
            "similarity": lambda index: high(index * layers_move + criteria_differ),
            "norm": lambda index: high(index * layers_move + 2 * criteria_differ),
        }
    )
    claim = contradiction_claim(record, 9)
    assert claim.verdict == verdict
    assert "layers 0–3 (those that are scored), 9 tokens" in claim.run
    assert "by chance 25%" in claim.run
    whole = contradiction_claim(record, 36)
    assert "share 100%" in whole.run
    assert whole.verdict == "does not hold"


def test_a_proxy_has_two_criteria() -> None:
    assert "two of 2 criteria" in contradiction_claim(replace(FULL, relay="proxy"), 9).run
    assert "two of 3 criteria" in contradiction_claim(FULL, 9).run


def pruned_with(factor: float, chosen: float) -> Claim | None:
    """Nine patches are kept, whose norms were `chosen` times 1 in the unpruned run, and `factor` times that pruned."""
    pruned = synthetic.flow_record(ENCODER, FlowCut(9))
    kept = pruned.kept_patch_ids[0]

    def unpruned_norms(index: int) -> dict[str, Any]:
        norm = np.ones(37)
        norm[1 + kept] = chosen
        norm[1:] /= norm[1:].mean()
        return {"value_norm": norm[None]}

    full = changed(FULL, unpruned_norms)
    before = full.layers[4].value_norm[0, 1 + kept].mean()

    def pruned_norms(index: int) -> dict[str, Any]:
        value = NOISE if index == 5 else factor * before
        return {"value_norm": np.full_like(pruned.layers[index].value_norm, value)}

    return density_claim(density(full), density(changed(pruned, pruned_norms)))


@pytest.mark.parametrize(
    ("factor", "chosen", "verdict", "grown"),
    [
        (1.3, 1.0, "holds", "+30.0%"),
        (1.1, 1.0, "half holds", "+10.0%"),
        (1.0, 1.4, "half holds", "+27.3%"),  # all of it by choice
        (1.04, 1.0, "does not hold", "+4.0%"),
        (0.5, 1.0, "does not hold", "−50.0%"),
    ],
)
def test_information_density(factor: float, chosen: float, verdict: str, grown: str) -> None:
    claim = pruned_with(factor, chosen)
    assert claim is not None
    assert claim.verdict == verdict
    assert f"layer 4: value norm per patch {grown}" in claim.run


def test_a_cut_behind_the_layer_that_is_read_says_nothing_of_density() -> None:
    assert density_claim(density(FULL), density(FULL)) is None


def test_every_claim_tells_its_rule() -> None:
    pruned = density(synthetic.flow_record(ENCODER, FlowCut(9)))
    claims = [
        concentration_claim(concentration(FULL)), *spread_claims(spread(FULL)), flow_claim(flow_shares(FULL)),
        contradiction_claim(FULL, 9), density_claim(density(FULL), pruned),
    ]  # fmt: skip
    assert [claim.figure for claim in claims if claim] == ["F3", "F3", "F3", "F2", "F4", "F6"]
    for claim in claims:
        assert claim is not None
        for word in ("Holds: ", "Half holds: ", "Does not hold: "):
            assert word in claim.rule


def test_the_two_value_norms() -> None:
    """Heads of opposite sign cancel in the head-averaged value, and not in the mean of their norms."""
    np.testing.assert_allclose(density(FULL, norm="per head").value[0], FULL.layers[0].head_value_norm[0, 1:].mean())
    assert (density(FULL, norm="per head").value > density(FULL).value).all()
    same = changed(FULL, lambda index: {"head_value_norm": 2 * FULL.layers[index].value_norm})
    np.testing.assert_allclose(norm_agreement(same), 1)
    older = changed(FULL, lambda index: {"head_value_norm": None})
    with pytest.raises(ValueError, match="ask again"):
        density(older, norm="per head")
