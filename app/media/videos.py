"""Videos on the page: which models take them and how many frames, and a file from which other frames can be taken.

What a model takes is known once the first model is in memory: pages do without torch.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from flowcut.errors import InvalidPicture
from flowcut.media.video import Video, open_video
from flowcut.published import MODEL_TYPES
from flowcut_lens.app.jobs.runtime import runtime

LEAST_FRAMES = 2
"""A video of one frame is a picture."""
USUAL_FRAMES = 8
"""Taken of a video while the model in the box takes none, or is not known."""


@dataclass(frozen=True)
class VideoFile:
    """A video as it was uploaded, kept so that another number of frames can be taken of it."""

    name: str
    content: bytes = field(repr=False)

    def open(self, frames: int) -> Video:
        """So many frames at even distances of time.

        Raises:
            InvalidPicture: (a ValueError) one sentence: it is no video, is damaged, or has too few frames.
        """
        file = io.BytesIO(self.content)
        file.name = self.name
        return open_video(file, frames)


@dataclass(frozen=True)
class Limits:
    """What a model takes of a video."""

    family: str
    usual: int
    """Frames, unless others are asked for."""
    most: int
    """Frames at most; 0: it takes no videos."""


def limits(model: str) -> Limits | None:
    """What the model of this name takes; None: not known yet, so that only the run itself will show."""
    if not runtime().models.any_loaded:  # nothing may wait for torch, which another thread is bringing in
        return None
    from flowcut.families import FAMILIES
    from flowcut.models.loading import known_family

    loaded = runtime().models.get(model)
    family = known_family(model) if loaded is None else loaded.family
    if family is None and model in MODEL_TYPES:
        family = FAMILIES[MODEL_TYPES[model]]
    return None if family is None else Limits(family.name, family.frames, family.most_frames)


def check_frames(model: str, frames: int) -> None:
    """Let a number of frames through that the model takes, as far as that is known.

    Raises:
        InvalidPicture: (a ValueError) one sentence that says what it takes, or which models take videos.
    """
    known = limits(model)
    if known is None or LEAST_FRAMES <= frames <= known.most:
        return
    if not known.most:
        from flowcut.families import names_of_video_families

        raise InvalidPicture(
            f"The model “{model}” is of the family {known.family}, which takes no videos: choose a model of "
            f"{names_of_video_families()}, or a picture."
        )
    raise InvalidPicture(
        f"{known.family} takes {LEAST_FRAMES} to {known.most} frames of a video, and {frames} are asked for: change "
        "the number of frames."
    )
