"""Videos whose frames go through the tower as pictures do: the budget is over all frames, the cut frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from flowcut.cut import CutConfig, even_shares
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.family import MediaKind

VIDEOS = MediaKind("video", ("pixel_values_videos",), stacked=True)
"""One tensor [videos, frames, 3, H, W]."""
FRAMES_NOTE = "The budget is shared evenly by a video's frames, the first ones taking what cannot be divided."


def frames_of(pixels: Tensor) -> tuple[int, int]:
    """How many videos there are, and frames in each.

    Raises:
        FlowCutError: the pixels are not those of videos with frames.
    """
    if not isinstance(pixels, Tensor) or pixels.ndim != 5 or 0 in pixels.shape:
        shape = tuple(getattr(pixels, "shape", ()))
        raise FlowCutError(
            f"pixel_values_videos has the shape {shape}: it must be [videos, frames, 3, height, width] with at least "
            "one frame, and as many frames in each video."
        )
    return int(pixels.shape[0]), int(pixels.shape[1])


@contextmanager
def cut_by_frame(
    recording: Recording, cut: CutConfig | None, videos: int, frames: int, merge_side: int = 1
) -> Iterator[None]:
    """Passes inside are of `videos` times `frames` rows, of which each keeps its share of the budget.

    Where the budget divides evenly the frames are cut as a batch of pictures is, as released; else each apart.

    Args:
        merge_side: side of the squares of patches that are pooled into one token, and kept or pruned together.

    Raises:
        InvalidCut: there are more frames than tokens.
    """
    if cut is None:
        recording.recut(None, merge_side)
        yield
        return
    shares = even_shares(cut.tokens, frames, "frames")
    recording.recut(replace(cut, tokens=shares[-1]), merge_side)
    if shares[0] == shares[-1]:
        yield
    else:
        with recording.budgets(shares * videos):
            yield
