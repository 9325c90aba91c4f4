"""Ground truth: the pixels of what was asked about are known in a drawn scene; who keeps them, who points at them?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import streamlit as st

from analysis.agreement import kept_mask
from analysis.figures.truth import object_flow_lines, truth_bars
from analysis.relay import Direction
from analysis.truth import ObjectFlow, object_flow, patch_coverage, pointing_game, recall
from app import gallery
from app.widgets.answers import escape_markdown
from app.widgets.compare import methods
from app.widgets.compare.choice import choose
from app.widgets.compare.plots import plot
from app.widgets.compare.subject import Subject
from scenes import about as objects_asked_about

DIRECTIONS: dict[Direction, str] = {"inflow": "Inflow: what CLS gathers", "outflow": "Outflow: what patches take"}
NO_TRUTH = "The truth is known of drawn scenes only: choose one, or draw a new one, and ask one of its questions."
NOT_COVERED = "The scene's truth does not cover this question: ask one of the suggested ones."
NO_OBJECT = "This question names nothing that is in the picture, so there is no object whose patches could be kept."


def show(about: Subject) -> None:
    """The section."""
    if about.picture.seed is None:
        st.info(NO_TRUTH)
        return
    asked = objects_asked_about(gallery.scene(about.picture.seed), about.full.question)
    if not asked:
        st.info(NOT_COVERED if asked is None else NO_OBJECT)
        return
    found = methods.found(about)
    if found is not None:
        _criteria(about, asked, found)
    _flow(about, _coverage(about, asked) > 0)


@lru_cache(maxsize=64)
def _covered(seed: int, asked: tuple[int, ...], about: Subject) -> np.ndarray:
    objects = gallery.scene(seed).objects
    pixels = np.any([objects[index].mask for index in asked], axis=0)
    return patch_coverage(pixels, about.record.geometries[0])


def _coverage(about: Subject, asked: tuple[int, ...]) -> np.ndarray:
    """float64 [N], the share of each patch that shows what was asked about."""
    assert about.picture.seed is not None
    return _covered(about.picture.seed, asked, about)


def _criteria(about: Subject, asked: tuple[int, ...], found: list[methods.MethodResult]) -> None:
    """Recall and pointing game of every criterion."""
    assert about.picture.seed is not None
    coverage = _coverage(about, asked)
    objects = [gallery.scene(about.picture.seed).objects[index] for index in asked]
    named = ", ".join(f"the {thing.colour} {thing.shape}" for thing in objects)
    st.markdown(
        f"Asked about: **{escape_markdown(named)}**, seen by {(coverage > 0).sum()} of {len(coverage)} patches."
    )
    ablations = st.toggle("FlowCut's ablations too", key="truth-ablations")
    shown = methods.choices(methods.one_draw(found), len(coverage), ablations)
    kept = kept_mask([one.patch_ids for one in shown], len(coverage))
    figure = truth_bars(
        [one.name for one in shown],
        recall(coverage, kept),
        about.facts(f"budget {about.tokens} of {len(coverage)}", "random: seed 0"),
        pointing_game(coverage > 0, np.array([one.ranking for one in shown])),
        about.tokens / len(coverage),
    )
    plot(figure, truth_bars)


def _flow(about: Subject, shows: np.ndarray) -> None:
    """The object's share of what passes through CLS, full run against pruned run."""
    st.html('<h3 class="lens-panel">How much of the flow through CLS is the object\'s</h3>')
    direction = choose("Direction", DIRECTIONS, "truth-direction")
    flows: dict[str, ObjectFlow] = {about.full.title: object_flow(about.record, shows)}
    if about.pruned.record is not None and about.pruned.record.layers:
        flows[about.pruned.title] = object_flow(about.pruned.record, shows)
    figure = object_flow_lines(
        flows, about.facts(f"mean of {about.record.n_heads} heads", about.pruned.title), direction
    )
    plot(figure, object_flow_lines)
