"""Qwen3-VL and Qwen3.5: as Qwen2.5-VL, with interpolated position embeddings, and videos slice by slice in the text.

Qwen3-VL has *deepstack*: what some earlier layers of the encoder give is merged, too, and added to the visual tokens
behind the first layers of the decoder. A cut takes a token's share of it with the token. In Qwen3.5 there is none, and
three of four decoder layers have linear attention.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from flowcut.cut import CutConfig
from flowcut.families.family import MediaKind
from flowcut.families.llava_build import size_entry
from flowcut.families.qwen_vl import PICTURES, QwenVL

VIDEOS = MediaKind("video", ("pixel_values_videos", "video_grid_thw"))
OF_VIDEOS = (
    "Of a video, whose slices lie between timestamps, the encoder keeps the budget and the language model all of it."
)
LINEAR = (
    "Of its decoder layers only every fourth attends; the others, which the methods look at, have linear attention "
    "without weights to rank tokens by, and a cut between such layers is not built."
)
ATTENDING = "Attention of the answer is that of every fourth decoder layer; linear attention has no weights."


class Qwen3VL(QwenVL):
    """The family of `Qwen3VLForConditionalGeneration`."""

    media: tuple[MediaKind, ...] = (PICTURES, VIDEOS)
    presumed_rate: int | None = 24
    least_frames = 2

    def in_one_run(self, kind: MediaKind) -> bool:
        """A video's slices have their times between them."""
        return kind is not VIDEOS

    def _video_grid(self, video_processor: Any, width: int, height: int, frames: int) -> tuple[int, int]:
        """Rows and columns of patches of each frame: what a video may cost is shared by its frames."""
        if not video_processor.do_resize:
            return super()._video_grid(video_processor, width, height, frames)
        side = video_processor.patch_size * video_processor.merge_size
        least, most = (size_entry(video_processor.size, name) or 0 for name in ("shortest_edge", "longest_edge"))
        if video_processor.cap_pixels_per_frame:
            capped = min(video_processor.max_video_tokens * side * side, most // frames)
            most = max(capped, int(least * 1.05)) * frames
        smart_resize = sys.modules[type(video_processor).__module__].smart_resize
        rows, cols = smart_resize(
            num_frames=frames, height=height, width=width, temporal_factor=video_processor.temporal_patch_size,
            factor=side, min_pixels=least, max_pixels=most,
        )  # fmt: skip
        return rows // video_processor.patch_size, cols // video_processor.patch_size

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """Also what is done of a video."""
        told = super().notes(cut)
        return (*told, OF_VIDEOS) if told else ()


class Qwen35(Qwen3VL):
    """The family of `Qwen3_5ForConditionalGeneration`."""

    template_options: Mapping[str, Any] = {"enable_thinking": False}

    def decoder_reason(self, model: PreTrainedModel) -> str | None:
        """Its decoder cannot be cut."""
        return LINEAR

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """Which layers of the decoder can be read."""
        return (ATTENDING,)
