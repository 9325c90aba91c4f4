"""Pictures and videos alike: opened for a model, put through its processor, and laid on its encoder's inputs."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature
from transformers.utils import is_torchvision_available
from transformers.video_utils import VideoMetadata

from flowcut.errors import InvalidPicture
from flowcut.families import names_of_video_families
from flowcut.families.family import IMAGE, MediaKind
from flowcut.media.picture import Picture, open_picture
from flowcut.media.source import plain
from flowcut.media.video import Video, is_video, open_video
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.vision import Geometry

Medium = Picture | Video


def open_medium(model: VisionLanguageModel, source: Any, frames: int | None = None) -> Medium:
    """Open a picture, or a video with as many frames as the model is used to.

    Args:
        source: what `open_picture` and `open_video` take; a sequence is a video.
        frames: how many frames to take of a video file; None: the model's own number.

    Raises:
        InvalidPicture: (a ValueError) it cannot be opened, or the model does not take it.
    """
    source = plain(source, "picture")
    if not is_video(source):
        if frames is not None:
            raise InvalidPicture("frames is for videos: leave it out for a picture.")
        return open_picture(source)
    family = model.family
    if not family.frames:
        raise InvalidPicture(
            f"{family.name} takes no videos: hand over a picture, or choose a model of {names_of_video_families()}."
        )
    if not is_torchvision_available():
        raise InvalidPicture("The frames of videos are resized by torchvision, which is not installed: install it.")
    if frames is not None and 0 < frames < family.least_frames:
        raise InvalidPicture(f"frames is {frames}: {family.name} takes at least {family.least_frames} of a video.")
    return open_video(source, frames or family.frames, family.most_frames)


def kind_of(model: VisionLanguageModel, medium: Medium) -> MediaKind:
    """The model's kind of media that this is one of."""
    name = "video" if isinstance(medium, Video) else IMAGE.name
    return next(kind for kind in model.family.media if kind.name == name)


def processed(model: VisionLanguageModel, medium: Medium, prompt: str) -> BatchFeature:
    """What the model's processor makes of a medium and its prompt, on the CPU."""
    processor = model.processor
    # A template that writes the first token itself must not get it twice; transformers' own rule.
    bos = processor.tokenizer.bos_token
    options = {"return_tensors": "pt", "add_special_tokens": not (bos and prompt.startswith(bos))}
    # Some guess which axis holds the colours, and take a height of 1 or 3 pixels for it.
    options["input_data_format"] = "channels_last"
    if isinstance(medium, Picture):
        return model.family.named(IMAGE, processor(images=medium.image, text=prompt, **options))
    count, rate = len(medium.frames), medium.frames_a_second
    told = VideoMetadata(total_num_frames=count, fps=rate, frames_indices=list(range(count)))
    known = {} if rate is None else {"video_metadata": [told]}
    inputs = processor(videos=[medium.array()], text=prompt, do_sample_frames=False, **known, **options)
    return model.family.named(kind_of(model, medium), inputs)


def geometries(model: VisionLanguageModel, medium: Medium) -> tuple[Geometry, ...]:
    """How the medium lies on the encoder's inputs: one for each row of its record."""
    family, processor = model.family, model.processor
    if isinstance(medium, Picture):
        return family.geometries(model.model, processor.image_processor, medium.size)
    return family.frame_geometries(model.model, processor.video_processor, medium.size, len(medium.frames))
