"""The vision encoders of a model, each with what watches it: a recording, or what stands for one."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.encoder.unrecorded import Unrecorded
from flowcut.families.family import Family


def watched_tower(
    model: PreTrainedModel,
    family: Family,
    cut: CutConfig | None,
    tower: nn.Module,
    *,
    flows: bool,
    matrices: bool,
    facts: dict[str, Any],
    seen_by: CutConfig | None = None,
) -> Any:
    """A `Recording` of one vision encoder, or an `Unrecorded` where it is not read; arguments as for `Recording.of`."""
    if family.unread is not None:
        return Unrecorded(tower, model, family.unread, facts)
    layer = family.feature_layer(model)
    looks = {"flows": flows, "matrices": matrices, "hands_cls": family.hands_cls}
    return Recording.of(tower, cut, layer, **looks, facts=facts, seen_by=seen_by)


def patch_size(model: PreTrainedModel) -> int:
    """Side of a patch, px; 1 where the model does not say."""
    side = getattr(getattr(model.config, "vision_config", None), "patch_size", 1)
    return int(side[0] if isinstance(side, list | tuple) else side)
