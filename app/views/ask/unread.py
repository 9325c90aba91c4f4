"""In place of the stage, where the model's vision encoder is not read: what is missing, and a mask if there is one."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from flowcut.records.mask_picture import record_masks
from flowcut.records.run import Run
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.state import selection

SIDE = 420
"""Longest side of a mask, pixels."""
MISSING = "So there is no graph of its flow and no concentration to show."
HOW_TO_READ = (
    "How to read this: each square is a visual token behind the projector, at its place on the picture; white ones are "
    "not read by the language model's last layer."
)


def is_unread(shown: Comparison) -> bool:
    """Whether nothing is known of the vision encoder that made these answers."""
    return shown.full.record is not None and shown.full.record.unread is not None


def unread_encoder(shown: Comparison) -> None:
    """What is missing and why; the mask of the pruned run, where its tokens' places are known."""
    record = shown.full.record
    assert record is not None
    st.info(escape_markdown(f"{record.unread} {MISSING}"), icon=":material/info:")
    pruned = shown.pruned(selection.chosen().arm)
    if pruned.record is None or not pruned.record.geometries or pruned.final_patch_ids is None:
        return
    _mask(pruned, shown)
    st.caption(HOW_TO_READ)
    facts = f"model {pruned.model_id} · {pruned.title} · {pruned.dtype}"
    st.caption(escape_markdown(facts))


def _mask(run: Run, shown: Comparison) -> None:
    assert run.record is not None
    assert run.final_patch_ids is not None
    small = shown.picture.image.copy()
    small.thumbnail((SIDE, SIDE))
    geometry = replace(run.record.geometries[0], original_width=small.width, original_height=small.height)
    left = replace(run.record, geometries=(geometry,), kept_patch_ids=run.final_patch_ids[None])
    mask = record_masks(small.convert("RGB"), left)["mask"]
    rows, cols = geometry.grid_rows, geometry.grid_cols
    kept = f"{len(run.final_patch_ids)} of {rows} x {cols} visual tokens kept"
    st.image(mask, caption=escape_markdown(f"{run.title}: {kept}"), width="content")
