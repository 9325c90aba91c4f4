"""The picture or video that someone chose, from upload to the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from PIL.Image import Image

from flowcut.media.drawn import looks_drawn
from flowcut.media.picture import Picture
from flowcut.media.video import Video
from flowcut_lens.app.media.uploads import Upload
from flowcut_lens.app.media.videos import VideoFile

PREVIEW_SIDE = 640
"""Longest side of a preview in pixels: twice the width of the sidebar, for dense displays."""


@dataclass(frozen=True, eq=False)
class ChosenPicture:
    """A picture or video with what the page knows of it."""

    source: Picture | Upload | Video = field(repr=False)
    """What a model is asked about, as it is kept: of an upload the file."""
    name: str
    """What it is called on the page, and for those who cannot see it."""
    seed: int | None = None
    """Seed of a drawn scene; None for a picture from outside, of which no truth is known."""
    file: VideoFile | None = field(default=None, repr=False)
    """What the frames of a video were taken of."""

    def open(self) -> Picture | Video:
        """What a model is asked about; of an upload decoded now, and not to be kept."""
        return self.source.open() if isinstance(self.source, Upload) else self.source

    @property
    def image(self) -> Image:
        """RGB, EXIF orientation applied; of a video the first frame. Not to be kept."""
        return self.open().image

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to it on opening, one sentence each."""
        return self.source.notes

    @property
    def video(self) -> Video | None:
        """The frames that were taken, if this is a video."""
        return self.source if isinstance(self.source, Video) else None

    @property
    def frames(self) -> tuple[Image, ...]:
        """Of a video, all that were taken, RGB and of one size; empty for a picture."""
        return () if self.video is None else self.video.frames

    @property
    def kind(self) -> str:
        """What it is called in a sentence."""
        return "picture" if self.video is None else "video"

    @cached_property
    def could_be_drawn(self) -> bool:
        """Whether it is a drawn scene, or a picture that looks like one: the embedded model knows no others."""
        return self.seed is not None or (self.video is None and looks_drawn(self.image))

    @cached_property
    def preview(self) -> Image:
        """A copy small enough to be shown beside the question."""
        small = self.image.copy()
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return small
