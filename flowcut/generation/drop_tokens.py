"""Prompts cut to the visual tokens that are left: ids, masks, types and positions, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError
from flowcut.families.family import EncodedMedium, MediaKind


def drop_tokens(
    model: PreTrainedModel, inputs: Mapping[str, Any], stays: Tensor, keeps_positions: bool = False
) -> dict[str, Any]:
    """The inputs without the tokens that do not stay; rows that lost more than their neighbours are padded.

    Args:
        inputs: `input_ids` [batch, length]; whatever else is of that shape, and `position_ids` [3, batch, length], is
            cut with it.
        stays: bool [batch, length].
        keeps_positions: whether tokens that count themselves have the positions of the full prompt afterwards.
    """
    if bool(stays.all()):
        return dict(inputs)
    if keeps_positions and "position_ids" not in inputs:
        inputs = {**inputs, **full_positions(inputs)}
    input_ids: Tensor = inputs["input_ids"]
    per_token = {
        name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == input_ids.shape
    }
    if len(set(stays.sum(dim=1).tolist())) > 1 and "attention_mask" not in per_token:
        per_token["attention_mask"] = torch.ones_like(input_ids)
    filler, left = {"input_ids": _pad_id(model, inputs)}, pads_left(inputs)
    shorter = {
        name: drop_columns(value, stays, filler=filler.get(name, 0), pad_left=left) for name, value in per_token.items()
    }
    if "position_ids" in inputs and "position_ids" not in shorter:  # [3, batch, length], one axis each
        axes = [drop_columns(axis, stays, filler=0, pad_left=left) for axis in inputs["position_ids"]]
        shorter["position_ids"] = torch.stack(axes)
    return {**inputs, **shorter}


def drop_columns(values: Tensor, stays: Tensor, filler: int, pad_left: bool) -> Tensor:
    """Each row of [batch, length] without the entries that do not stay; shorter rows are filled on one side."""
    rows = [row[keep] for row, keep in zip(values, stays, strict=True)]
    longest = max(len(row) for row in rows)
    padded = []
    for row in rows:
        missing = row.new_full((longest - len(row),), filler)
        padded.append(torch.cat([missing, row] if pad_left else [row, missing]))
    return torch.stack(padded)


def pads_left(inputs: Mapping[str, Any]) -> bool:
    """The side on which the processor padded; left where it did not, as generation needs it."""
    mask = inputs.get("attention_mask")
    return mask is None or not bool((mask[:, -1] == 0).any())


def text_positions(inputs: Mapping[str, Any]) -> Tensor:
    """int64 [batch, length], the place of each token among those of its row, padding not counted (0 there)."""
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def full_positions(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The positions of the full prompt, int64 [batch, length], for what stays of it; and the padding mask with them.

    Without a mask transformers would take a gap between positions for a border between two prompts.
    """
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    return {"position_ids": text_positions(inputs), "attention_mask": mask}


def _pad_id(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
    """What fills a row that lost more than its neighbour: as the processor padded, else as the model says."""
    mask = inputs.get("attention_mask")
    if mask is not None and bool((mask == 0).any()):
        return int(inputs["input_ids"][mask == 0][0])
    pad_id = model.generation_config.pad_token_id if model.generation_config else None
    return 0 if pad_id is None else int(pad_id)


def check_placeholders(kind: MediaKind, found: int, per_medium: list[int]) -> None:
    """
    Raises:
        FlowCutError: a prompt does not hold as many placeholders as its pictures or videos need.
    """
    if found != sum(per_medium):
        each = " + ".join(str(count) for count in per_medium)
        noun = "picture" if kind.name == "image" else kind.name
        raise FlowCutError(
            f"The prompt holds {found} {kind.name} placeholders, and {len(per_medium)} {noun}(s) need {each} = "
            f"{sum(per_medium)}: write <{kind.name}> once per {noun} and let the model's own processor expand it."
        )


def filled_placeholders(count: int, medium: EncodedMedium) -> Tensor:
    """bool [count], which placeholders of a medium its tokens fill."""
    filled = torch.zeros(count, dtype=torch.bool)
    filled[medium.places.cpu()] = True
    return filled
