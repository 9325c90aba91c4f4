"""CLS as a proxy: does the CLS row rank patches as other readings of the attention do, and do sinks fool it?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import streamlit as st

from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.figures.proxy import READINGS, proxy_heads, proxy_lines, sink_norms
from flowcut_lens.analysis.proxy import cls_proxy, sinks
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.study import StudySpec, follow

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel


def show(context: Context) -> None:
    """The section."""
    follow(context, plan(context), lambda results: _results(context, results[-1]))


def plan(context: Context) -> StudySpec:
    """The picture once more through the encoder, attention matrices recorded: rollout needs them."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        study.report("Recording the attention matrices", 0.1)
        run = flowcut.ask(
            model, context.picture.open(), context.full.question, max_new_tokens=1, matrices=True, system=context.system
        )
        assert run.record is not None  # recorded unless asked not to
        yield run.record

    takes = "Runs the vision encoder once and keeps its attention matrices: 16 MB for CLIP-L."
    return StudySpec(context.key("matrices"), work, "Record the attention matrices", takes, by_itself=True)


@st.fragment
def _results(context: Context, record: FlowRecord) -> None:
    image = record.image(0)
    if image.relay == "proxy":
        st.info("This encoder has no CLS: what is compared is our own proxy, the mean of all patches' queries.")
    found = cls_proxy(image)
    facts = context.facts("all tokens", f"{image.n_heads} heads")
    plot(proxy_lines(found, facts), proxy_lines)
    there = [name for name in READINGS if getattr(found, name) is not None]
    reading = choose("Head by head, against", {name: READINGS[name] for name in there}, "proxy-reading")
    plot(proxy_heads(found, facts, reading), proxy_heads)
    st.html('<h3 class="lens-panel">Sinks and registers</h3>')
    plot(sink_norms(sinks(image), facts), sink_norms)
