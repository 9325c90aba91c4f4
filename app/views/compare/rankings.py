"""What the causal check holds against what it measured: every criterion's ranking, chance, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from flowcut.criteria import METHODS
from flowcut.records.studies import MethodResult
from flowcut_lens.analysis.causal import (
    DRAWS,
    Agreement,
    in_drawn_order,
    object_agreement,
    rank_agreement,
    validity,
)
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.truth import known_coverage

TRUTH = "The object asked about"
"""What stands beside the criteria as a reference, where the pixels of what was asked about are known."""
WHAT_TRUTH_IS = (
    "is no criterion but the truth of this drawn scene: patches by how much they show of what the question names, all "
    f"others in an order that is drawn (agreement: mean of {DRAWS} orders; curves: one). It says what a ranking would "
    "reach here that knew where the object is and nothing else; the tables of `benchmarks/causal.md` mean the same."
)


@dataclass(frozen=True)
class Trust:
    """How well each criterion's ranking agrees with what a reading measured."""

    agreements: dict[str, Agreement]


def rankings_of(context: Context, found: list[MethodResult]) -> dict[str, np.ndarray]:
    """Every criterion's ranking of the patches, by its name; several random draws among them.

    Where the truth is known, what is asked about ranks too: what a criterion would reach that knew it.
    """
    ranked = [one.run for one in found if one.run is not None and one.run.cut is not None]
    rankings = {methods.short_title(run.cut): run.ranking for run in ranked if run.cut and run.ranking is not None}
    shown = known_coverage(context)
    if shown is None:
        return rankings
    order = in_drawn_order(shown, np.random.default_rng(0).random((1, len(shown))))[0]
    return {**rankings, TRUTH: order.astype(np.float32)}


def trusted(
    rankings: dict[str, np.ndarray], shown: np.ndarray | None, effect: np.ndarray, block_of_patch: np.ndarray
) -> Trust:
    """How well each ranking agrees; of the truth the mean over several orders of what shows nothing of the object.

    Args:
        rankings: as `rankings_of` gives them.
        shown: float [N], the share of each patch that shows what is asked about; None where that is not known.
        effect: float [P], of each block.
        block_of_patch: int64 [N].
    """
    agreements = rank_agreement(rankings, effect, block_of_patch)
    if shown is not None:
        agreements[TRUTH] = object_agreement(shown, effect, block_of_patch)
    return Trust(agreements)


def what_truth_is(trust: Trust) -> None:
    """A line on the reference, where there is one."""
    if TRUTH in trust.agreements:
        st.caption(f"“{TRUTH}” {WHAT_TRUTH_IS}")


def show_validity(trust: Trust, found: list[MethodResult]) -> None:
    """Whether this reading goes with what the criteria's cuts keep of the answer here; a warning where it does not."""
    kept = {methods.short_title(one.cut): methods.total(one) for one in found}
    across = validity(trust.agreements, kept)
    if np.isnan(across.value):
        return
    said = (
        f"Validity: across {across.count} criteria and draws, their agreement with this reading correlates by "
        f"{across.value:+.2f} (Spearman) with the log-prob of the full answer under their cuts, in this one picture."
    )
    if across.value > 0:
        st.caption(said)
    else:
        st.warning(f"{said} Here it does not explain what they keep: do not rely on it.", icon=":material/warning:")


def is_random(name: str) -> bool:
    """Whether this is one of the random draws."""
    return name.startswith(METHODS["random"].label)
