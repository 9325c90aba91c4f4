"""What the paper says beside what a run shows, with the rule of the verdict, below the figure that it belongs to."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from flowcut_lens.analysis.findings import Claim


def show_claim(claim: Claim) -> None:
    """A claim of the paper, the number of this run, and whether it holds."""
    kind = claim.verdict.replace(" ", "-")
    st.html(
        f'<div class="lens-claim" data-testid="claim"><p><b>The paper ({escape(claim.figure)}):</b> '
        f"{escape(claim.paper)}</p><p><b>This run:</b> {escape(claim.run)} "
        f'<span class="verdict {kind}">{escape(claim.verdict)}</span></p>'
        f'<p class="rule">{escape(claim.rule)}</p></div>'
    )
