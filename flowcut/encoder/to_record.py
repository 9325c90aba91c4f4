"""From the drafts of a pass, tensors on the device and group by group, to one FlowRecord in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from flowcut.encoder.prune_group import LayerDraft, PruneGroup, StepDraft
from flowcut.records.vision import NEAREST_KEPT_FIELDS, PADDING_ID, SCORE_FIELDS, FlowRecord, LayerFlow, PruneStep


def assemble(groups: Sequence[PruneGroup], facts: dict[str, Any]) -> FlowRecord:
    """The record of a finished pass; `facts` are the fields of FlowRecord that the prune groups do not know."""
    plan = groups[0].plan
    steps = tuple(_merge_steps(groups, layer) for layer in _layers_of(group.steps for group in groups))
    step_after = {step.layer: step for step in steps}
    drafts = zip(*(group.layers for group in groups), strict=True) if plan.flows else ()
    return FlowRecord(
        layers=tuple(_merge_layer(found, step_after.get(found[0].layer)) for found in drafts),
        steps=steps,
        kept_patch_ids=_merge([np.sort(_numpy(group.kept_ids), axis=1) for group in groups]),
        pruned_at_layer=_merge([_numpy(group.pruned_at) for group in groups]),
        n_patches=max(int(group.pruned_at.shape[1]) for group in groups),
        n_layers=plan.n_layers,
        n_heads=plan.n_heads,
        feature_layer=plan.feature_layer,
        read_layer=plan.read_layer,
        cut=plan.cut,
        relay="proxy" if plan.proxy else "cls",
        patches_per_token=plan.patches_per_token,
        **facts,
    )


def _layers_of(step_lists: Any) -> list[int]:
    return sorted({step.layer for steps in step_lists for step in steps})


def _merge_layer(drafts: Sequence[LayerDraft], step: PruneStep | None) -> LayerFlow:
    """Prune groups that were not scored or cut here, being at their target, are NaN (-2) in a layer where another
    was."""
    not_all = (*SCORE_FIELDS, *NEAREST_KEPT_FIELDS)
    some = [name for name in not_all if any(name in draft.tensors for draft in drafts)]
    names = [name for name in drafts[0].tensors if name not in not_all]
    arrays = {name: _merge([_field(draft, name) for draft in drafts]) for name in [*names, *some]}
    return LayerFlow(
        layer=drafts[0].layer,
        patch_ids=_merge([_numpy(draft.patch_ids) for draft in drafts]),
        scored="cumulative" in arrays,
        step=step,
        **arrays,
    )


def _field(draft: LayerDraft, name: str) -> np.ndarray:
    if name in draft.tensors:
        return _numpy(draft.tensors[name])
    shape = draft.patch_ids.shape[:1] if name == "cutoff" else draft.patch_ids.shape
    if name == "nearest_kept_id":
        return np.full(shape, PADDING_ID, dtype=np.int64)
    return np.full(shape, np.nan, dtype=np.float32)


def _merge_steps(groups: Sequence[PruneGroup], layer: int) -> PruneStep:
    """A prune group that had reached its target keeps what it has at this step, and requested nothing (NaN)."""
    found = [_step_at(group, layer) for group in groups]
    sizes = [len(group.kept_ids) for group in groups]
    requested = np.concatenate([step.requested_per_image for step in found])
    clamped = any(step.clamped for step in found)
    before = np.repeat([step.kept_before for step in found], sizes).astype(np.int64)
    after = np.repeat([step.kept_after for step in found], sizes).astype(np.int64)
    return PruneStep(
        layer=layer,
        kept_before=int(before.max()),
        kept_after=int(after.max()),
        requested=None if clamped else round(float(np.nanmax(requested))),
        clamped=clamped,
        entropy_ratio=np.concatenate([step.entropy_ratio for step in found]),
        requested_per_image=requested,
        kept_before_per_image=before,
        kept_after_per_image=after,
    )


def _step_at(group: PruneGroup, layer: int) -> StepDraft:
    for step in group.steps:
        if step.layer == layer:
            return step
    nothing = np.full(len(group.kept_ids), np.nan)
    # Only a prune group at its target has no step where another has one; what it keeps now it kept then.
    return StepDraft(layer, group.n_kept, group.n_kept, False, nothing, nothing)


def _merge(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Prune groups below each other, shorter ones padded at the end of their token axes: ids with -2, numbers with
    NaN."""
    longest = np.max([array.shape for array in arrays], axis=0)
    padded = []
    for array in arrays:
        missing = [(0, 0), *((0, int(n - have)) for n, have in zip(longest[1:], array.shape[1:], strict=True))]
        filler = PADDING_ID if array.dtype.kind == "i" else np.nan
        padded.append(np.pad(array, missing, constant_values=filler) if np.any(missing) else array)
    return np.concatenate(padded)


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
