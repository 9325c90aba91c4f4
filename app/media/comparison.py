"""A picture, and the three answers to one question about it, as the pages hand them around."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from PIL.Image import Image

from flowcut.media.video import Video
from flowcut.records.run import Run
from flowcut_lens.app.media.uploads import Upload
from flowcut_lens.app.media.videos import VideoFile

PREVIEW_SIDE = 640
"""Longest side of a preview in pixels: twice the width of the sidebar, for dense displays."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture someone chose."""

    source: Image | Upload = field(repr=False)
    """Pixels, RGB and upright, or the file they are decoded from."""
    name: str
    """What it is called on the page, and for those who cannot see it."""
    seed: int | None = None
    """Seed of a drawn scene; None for a picture from outside, of which no truth is known."""
    notes: tuple[str, ...] = ()
    """What was done to it on opening, one sentence each."""
    video: Video | None = field(default=None, repr=False)
    """The frames that were taken, if this is a video; `source` is the first."""
    file: VideoFile | None = field(default=None, repr=False)
    """What they were taken of."""

    @property
    def image(self) -> Image:
        """RGB, EXIF orientation applied; of an upload decoded for this look, and not to be kept."""
        return self.source.image if isinstance(self.source, Upload) else self.source

    @property
    def frames(self) -> tuple[Image, ...]:
        """Of a video, all that were taken, RGB and of one size; empty for a picture."""
        return () if self.video is None else self.video.frames

    @property
    def kind(self) -> str:
        """What it is called in a sentence."""
        return "picture" if self.video is None else "video"

    @property
    def medium(self) -> Image | Upload | Video:
        """What a model is asked about, as it is kept."""
        return self.video or self.source

    @cached_property
    def preview(self) -> Image:
        """A copy small enough to be shown beside the question."""
        small = self.image.copy()
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return small


@dataclass(frozen=True, eq=False)
class Comparison:
    """One question answered by the whole picture, by what a method kept of it, and by chance at the same budget."""

    picture: Picture
    full: Run
    cut: Run
    control: Run
    stored: bool = False
    """Whether the answers were read from disk, made earlier."""

    @property
    def runs(self) -> tuple[Run, Run, Run]:
        """The three runs in the order of the page."""
        return self.full, self.cut, self.control

    def pruned(self, arm: str) -> Run:
        """The run to hold against the whole picture's: `cut` or `control`."""
        return {"cut": self.cut, "control": self.control}[arm]

    @property
    def key(self) -> str:
        """Hash of the content: equal for equal answers to equal questions about equal pictures."""
        return "-".join(run.id for run in self.runs)
