"""The audit: what holds is said to hold, what does not is named, and only fresh scenes count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.audit import check_fresh, report
from benchmarks.heldout_tables import HeldOut, read
from training.heldout import FIRST_SEED, N_SCENES


@pytest.fixture(scope="module")
def claimed() -> HeldOut:
    return read()


def some(found: HeldOut, chosen: np.ndarray) -> HeldOut:
    counts = {name: values[:, chosen] for name, values in found.counts.items()}
    grids = {name: getattr(found, name)[:, chosen] for name in ("right", "kept", "on_objects")}
    return replace(found, kinds=found.kinds[chosen], scene=found.scene[chosen], counts=counts, **grids)


def test_one_half_of_the_scenes_bears_out_the_other(claimed: HeldOut) -> None:
    even = claimed.scene % 2 == 0
    text = report(some(claimed, even), some(claimed, ~even))
    assert "Every claim survives" in text
    assert "DOES NOT SURVIVE" not in text


def test_a_claim_that_is_wrong_is_named(claimed: HeldOut) -> None:
    even = claimed.scene % 2 == 0
    found = some(claimed, ~even)
    place = found.ways.index(("stride", 192))
    right = found.right.copy()
    right[place] = np.where(found.scene % 3 == 0, 0, right[place])
    text = report(some(claimed, even), replace(found, right=right))
    verdict = text.split("## Verdict")[1]
    assert "- exact: stride 192" in verdict
    assert "stride 128" not in verdict
    assert "DOES NOT SURVIVE" in text


def test_scenes_that_were_claimed_from_or_chosen_by_are_not_fresh() -> None:
    first = FIRST_SEED["test"]
    check_fresh(first + N_SCENES, 100)
    check_fresh(first - 100, 100)
    for seed in (first + N_SCENES - 1, first - 99, FIRST_SEED["validation"] + 10):
        with pytest.raises(SystemExit, match="not fresh"):
            check_fresh(seed, 100)
    with pytest.raises(SystemExit, match="two scenes"):
        check_fresh(700_000, 1)


def test_few_scenes_refute_little_and_nothing_by_having_no_spread(claimed: HeldOut) -> None:
    few = np.isin(claimed.scene, np.unique(claimed.scene)[:6])
    assert "Every claim survives" in report(some(claimed, ~few), some(claimed, few))
