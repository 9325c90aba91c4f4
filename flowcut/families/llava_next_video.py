"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT; frames go through the same tower and are pooled, square by square."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.family import EncodedMedium, MediaKind
from flowcut.families.frames import FRAMES_NOTE, VIDEOS, cut_by_frame, frames_of
from flowcut.families.grids import input_on_whole_grids, token_sources
from flowcut.families.llava_next import LlavaNext
from flowcut.published import PUBLISHED


class LlavaNextVideo(LlavaNext):
    """The family of `LlavaNextVideoForConditionalGeneration`.

    A token of a video is a square of `spatial_pool_stride` by `spatial_pool_stride` patches. Squares are kept or cut
    whole, so that what is kept is pooled as the stock model pools it; a budget counts squares.
    """

    name = "LLaVA-NeXT-Video"
    model_class = "LlavaNextVideoForConditionalGeneration"
    description = "LLaVA-NeXT-Video (LlavaNextVideoForConditionalGeneration with a CLIP vision tower)"
    published = PUBLISHED["llava_next_video"]
    media: tuple[MediaKind, ...] = (*LlavaNext.media, VIDEOS)
    processor_class: str | None = "LlavaNextVideoProcessor"
    frames = 8
    most_frames = 32
    merges_patches = True

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """As in LLaVA-NeXT; of a video one for each square of each frame."""
        if kind is not VIDEOS:
            return super().placeholders(model, kind, given)
        videos, frames = frames_of(given[VIDEOS.inputs[0]])
        return [frames * self._squares(model)] * videos

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """Pictures as in LLaVA-NeXT; all frames of all videos in one batch, pooled on their whole grids."""
        if kind is not VIDEOS:
            return super().encode(model, recording, kind, given, cut)
        parts, pixels, squares = cast(Any, model), given[VIDEOS.inputs[0]], self._squares(model)
        videos, frames = frames_of(pixels)
        whole = input_on_whole_grids(self._part(model, "vision_resampler"), recording, self._tile_patches(model))
        with cut_by_frame(recording, cut, videos, frames, self._stride(model)), whole:
            features = parts.get_video_features(pixel_values_videos=pixels, return_dict=True).pooler_output
        encoded, kept, patches = [], recording.kept_groups, token_sources(recording)
        for video, first in enumerate(range(0, videos * frames, frames)):
            ids = kept[first : first + frames]
            places = torch.cat([frame * squares + tokens for frame, tokens in enumerate(ids)])
            made_of = torch.cat(patches[first : first + frames])
            shares = torch.full(made_of.shape[:2], 1 / made_of.shape[1], dtype=torch.float32, device=made_of.device)
            encoded.append(EncodedMedium(features[video, places], places, made_of, shares))
        return encoded

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """Also how a video's budget is shared."""
        if cut is None:
            return ()
        return (*super().notes(cut), f"Of videos: {FRAMES_NOTE[0].lower()}{FRAMES_NOTE[1:]}")

    def _stride(self, model: PreTrainedModel) -> int:
        """Patches along a side of a square."""
        return int(model.config.spatial_pool_stride)

    def _squares(self, model: PreTrainedModel) -> int:
        """Tokens of an uncut frame.

        Raises:
            FlowCutError: patches at the edge of a frame belong to no square.
        """
        patches, stride = self._tile_patches(model), self._stride(model)
        if math.isqrt(patches) % stride:
            raise FlowCutError(
                f"A frame is {math.isqrt(patches)} patches wide and its squares {stride}: the width must be a multiple."
            )
        return patches // stride**2
