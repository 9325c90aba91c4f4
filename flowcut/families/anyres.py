"""How a picture of any aspect lies on a base tile and a grid of crops, as LLaVA-NeXT and LLaVA-OneVision cut it up."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension

from flowcut.records.vision import Geometry


def tile_geometries(model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
    """The base tile, then the crops row by row: a picture of (width, height) is scaled into its grid, padded around."""
    width, height = size
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    grid_height, grid_width = select_best_resolution((height, width), image_processor.image_grid_pinpoints)
    shape = torch.empty(1).expand(1, height, width)  # only its shape is looked at
    scaled_height, scaled_width = get_patch_output_size(shape, (grid_height, grid_width), ChannelDimension.FIRST)
    tile = partial(
        Geometry,
        original_width=width,
        original_height=height,
        input_width=side,
        input_height=side,
        patch=patch,
        grid_rows=side // patch,
        grid_cols=side // patch,
    )
    base = tile(resized_width=side, resized_height=side, crop_left=0, crop_top=0, view="base")
    crops = [
        tile(
            resized_width=scaled_width,
            resized_height=scaled_height,
            crop_left=left - (grid_width - scaled_width) // 2,
            crop_top=top - (grid_height - scaled_height) // 2,
            view=f"crop row {top // side + 1}, column {left // side + 1}",
        )
        for top in range(0, grid_height, side)
        for left in range(0, grid_width, side)
    ]
    return (base, *crops)
