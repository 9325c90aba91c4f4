"""Video-LLaVA: frames go through a tower of their own, each with its CLS token, to the place of `<video>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.criteria.stages import DECODER, ENCODER, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.clip_llava import ClipLlava
from flowcut.families.family import IMAGE, SEPARATOR, EncodedMedium, MediaKind
from flowcut.families.frames import FRAMES_NOTE, VIDEOS, cut_by_frame, frames_of
from flowcut.published import PUBLISHED


class VideoLlava(ClipLlava):
    """The family of `VideoLlavaForConditionalGeneration`."""

    name = "Video-LLaVA"
    model_class = "VideoLlavaForConditionalGeneration"
    description = "Video-LLaVA (VideoLlavaForConditionalGeneration with CLIP vision towers)"
    published = PUBLISHED["video_llava"]
    # Its processor still gives pictures by their old name; asked not to, by the usual one.
    media: tuple[MediaKind, ...] = (
        MediaKind("image", ("pixel_values_images",), stacked=True),
        MediaKind("image", ("pixel_values",), stacked=True),
        VIDEOS,
    )
    processor_class: str | None = "VideoLlavaProcessor"
    frames = 8
    most_frames = 8
    one_grid = False
    stages: tuple[Stage, ...] = (ENCODER, DECODER)

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder for pictures, or that for frames."""
        return self._part(model, f"{kind.name}_tower")

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """The same for every picture; of a video each frame's patches and its CLS token."""
        if kind is not VIDEOS:
            return super().placeholders(model, kind, given)
        videos, frames = frames_of(given[VIDEOS.inputs[0]])
        return [frames * (1 + self.n_patches(model))] * videos

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """Pictures as in LLaVA-1.5; all frames of all videos in one batch, whose CLS tokens go with a cut."""
        if kind is not VIDEOS:
            return super().encode(model, recording, kind, given, cut)
        parts, pixels = cast(Any, model), given[VIDEOS.inputs[0]]
        videos, frames = frames_of(pixels)
        with cut_by_frame(recording, cut, videos, frames):
            features = parts.model.get_video_features(pixel_values_videos=pixels, return_dict=True).pooler_output
        kept = recording.kept
        cls = cut is None or cut.tokens >= frames * self.n_patches(model)
        return [
            self._video(model, features[first : first + frames], kept[first : first + frames], first, cls)
            for first in range(0, videos * frames, frames)
        ]

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """How a video's budget is shared."""
        if cut is None:
            return ()
        return (f"{FRAMES_NOTE[:-1]}; the CLS tokens of frames, which are no patches, go with a cut.",)

    def _video(
        self, model: PreTrainedModel, features: Tensor, kept: list[Tensor], first_row: int, cls: bool
    ) -> EncodedMedium:
        """One video from its frames' tokens [frames, 1 + longest, width], CLS first, and the patches kept of each."""
        tokens, places, sources = [], [], []
        for frame, ids in enumerate(kept):
            with_cls = nn.functional.pad(ids, (1, 0), value=SEPARATOR)
            row = torch.full_like(with_cls, first_row + frame).where(with_cls != SEPARATOR, SEPARATOR)
            skip = 0 if cls else 1
            tokens.append(features[frame, skip : len(with_cls)])
            places.append((frame * (1 + self.n_patches(model)) + 1 + with_cls)[skip:])
            sources.append(torch.stack([row, with_cls], dim=-1)[skip:])
        return EncodedMedium.of_patches(torch.cat(tokens), torch.cat(places), torch.cat(sources))
