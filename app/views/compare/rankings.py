"""What the causal check holds against what it measured: every criterion's ranking, chance, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from flowcut.criteria import METHODS
from flowcut.records.studies import MethodResult
from flowcut_lens.analysis.causal import Agreement
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


def is_random(name: str) -> bool:
    """Whether this is one of the random draws."""
    return name.startswith(METHODS["random"].label)
