"""Ground truth: the pixels of what was asked about are known in a drawn scene; who keeps them, who points at them?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import streamlit as st

from flowcut.records.vision import Geometry
from flowcut_lens.analysis.agreement import kept_mask
from flowcut_lens.analysis.figures.truth import flow_kept_map, layer_truth_map, object_flow_lines, truth_bars
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.truth import (
    ObjectFlow,
    flow_kept,
    layer_truth,
    object_flow,
    patch_coverage,
    pointing_game,
    recall,
)
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.media import gallery
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.scenes import Scene
from flowcut_lens.scenes import about as objects_asked_about

DIRECTIONS: dict[Direction, str] = {"inflow": "Inflow: what CLS gathers", "outflow": "Outflow: what patches take"}
NO_TRUTH = "The truth is known of drawn scenes only: choose one, or draw a new one, and ask one of its questions."
NOT_COVERED = "The scene's truth does not cover this question: ask one of the suggested ones."
NO_OBJECT = "This question names nothing that is in the picture, so there is no object whose patches could be kept."


def show(context: Context) -> None:
    """The section."""
    if context.picture.seed is None:
        st.info(NO_TRUTH)
        return
    if context.record.batch != 1:
        st.info("Ground truth is shown for models that see a picture as one grid of patches.")
        return
    asked = objects_asked_about(_scene(context), context.full.question)
    if not asked:
        st.info(NOT_COVERED if asked is None else NO_OBJECT)
        return
    found = methods.found(context)
    coverage = _coverage(context, asked)
    if found is not None:
        _criteria(context, asked, found)
    _layers(context, coverage)
    _flow(context, coverage, found)


@lru_cache(maxsize=64)
def _covered(seed: int, asked: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    return patch_coverage(gallery.scene(seed).object_mask(asked), geometry)


def _coverage(context: Context, asked: tuple[int, ...]) -> np.ndarray:
    """float64 [N], the share of each patch that shows what was asked about."""
    assert context.picture.seed is not None
    return _covered(context.picture.seed, asked, context.record.geometries[0])


def known_coverage(context: Context) -> np.ndarray | None:
    """float64 [N], the share of each patch that shows what was asked about; None where the truth is not known."""
    asked = None if context.picture.seed is None else objects_asked_about(_scene(context), context.full.question)
    return _coverage(context, asked) if asked else None


def _scene(context: Context) -> Scene:
    assert context.picture.seed is not None
    return gallery.scene(context.picture.seed)


def _shown(context: Context, found: list[methods.MethodResult]) -> list[methods.Choice]:
    """The criteria that the figures are of."""
    ablations = bool(st.session_state.get("truth-ablations"))
    return methods.choices(methods.one_draw(found), context.record.n_patches, ablations)


def _criteria(context: Context, asked: tuple[int, ...], found: list[methods.MethodResult]) -> None:
    """Recall and pointing game of every criterion."""
    coverage = _coverage(context, asked)
    objects = [_scene(context).objects[index] for index in asked]
    named = ", ".join(f"the {thing.colour} {thing.shape}" for thing in objects)
    st.markdown(
        f"Asked about: **{escape_markdown(named)}**, seen by {(coverage > 0).sum()} of {len(coverage)} patches."
    )
    st.toggle("FlowCut's ablations too", key="truth-ablations")
    shown = _shown(context, found)
    kept = kept_mask([one.patch_ids for one in shown], len(coverage))
    figure = truth_bars(
        [one.name for one in shown],
        recall(coverage, kept),
        context.facts(f"budget {context.tokens} of {context.full.visual_tokens}", "random: seed 0"),
        pointing_game(coverage > 0, np.array([one.ranking for one in shown])),
        context.tokens / context.full.visual_tokens,
    )
    plot(figure, truth_bars)


def _layers(context: Context, coverage: np.ndarray) -> None:
    """What each layer alone would keep of it, and what accumulating does."""
    st.html('<h3 class="lens-panel">Layer by layer</h3>')
    facts = context.facts(
        f"budget {context.tokens} of {context.full.visual_tokens}", f"mean of {context.record.n_heads} heads",
        "official",
        f"random: {context.tokens / context.full.visual_tokens:.0%}",
    )  # fmt: skip
    plot(layer_truth_map(layer_truth(context.record, coverage, context.tokens), facts), layer_truth_map)


def _flow(context: Context, coverage: np.ndarray, found: list[methods.MethodResult] | None) -> None:
    """The object's share of what passes through CLS: full run against pruned run, then what each criterion keeps."""
    st.html('<h3 class="lens-panel">How much of the flow through CLS is the object\'s</h3>')
    direction = choose("Direction", DIRECTIONS, "truth-direction")
    shows = coverage > 0
    flows: dict[str, ObjectFlow] = {context.full.title: object_flow(context.record, shows)}
    if context.pruned.record is not None and context.pruned.record.layers:
        flows[context.pruned.title] = object_flow(context.pruned.record, shows)
    heads = f"mean of {context.record.n_heads} heads"
    figure = object_flow_lines(flows, context.facts(heads, context.pruned.title), direction)
    plot(figure, object_flow_lines)
    if found is None:
        return
    shown = _shown(context, found)
    masks = kept_mask([one.patch_ids for one in shown], len(coverage))
    kept = flow_kept(context.record, coverage, masks, direction)
    facts = context.facts(f"budget {context.tokens} of {context.full.visual_tokens}", heads, "random: seed 0")
    layers = np.array([layer.layer for layer in context.record.layers])
    read = context.record.last_read_layer
    plot(flow_kept_map([one.name for one in shown], layers, kept, facts, read, direction), flow_kept_map)
