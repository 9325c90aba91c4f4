"""What the causal check holds against what it measured: every criterion's ranking, chance, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from flowcut.criteria import METHODS
from flowcut.records.studies import MethodResult
from flowcut_lens.analysis.causal import Agreement, validity
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.truth import known_coverage

TRUTH = "The object asked about"
"""What stands beside the criteria as a reference, where the pixels of what was asked about are known."""
WHAT_TRUTH_IS = (
    "is no criterion but the truth of this drawn scene: patches by how much of the object they show, all others tied. "
    "It says what a ranking would reach here that knew where the object is and nothing else."
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
    return rankings if shown is None else {**rankings, TRUTH: shown}


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
