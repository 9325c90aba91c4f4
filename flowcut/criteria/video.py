"""Criteria that compare the frames of a video behind the projector, as servers do: EVS and VidCom2."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence, highest, needed, unit
from flowcut.criteria.quotas import filled
from flowcut.errors import InvalidCut

FIRST_FRAME = 3.0
"""EVS: above every dissimilarity, which is 2 at most."""
SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""VidCom2: the widths of its five Gaussian kernels."""
CHANNEL_SHARE, TEMPERATURE = 0.5, 0.01
"""VidCom2: the share of channels that it looks at, and how sharply a frame's part of the budget follows its score."""


def evs(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], EVS: the first frame whole, then tokens by how little each is like that at its place one frame
    earlier (1 - cosine).

    Raises:
        InvalidCut: the budget is smaller than the first frame.
    """
    frames = _frames(needed(evidence.features), evidence)
    per_frame = frames.shape[2]
    if cut.tokens < per_frame:
        raise InvalidCut(
            f"EVS keeps the first frame whole, {per_frame} tokens, and {cut.tokens} are to be kept: choose {per_frame} "
            "or more, or another method."
        )
    vectors = unit(frames)
    unlike = 1 - (vectors[:, 1:] * vectors[:, :-1]).sum(axis=-1)
    first = np.full((len(frames), 1, per_frame), FIRST_FRAME)
    return np.concatenate([first, unlike], axis=1).reshape(evidence.batch, -1)


def _frames(features: np.ndarray, evidence: Evidence) -> np.ndarray:
    """float64 [B, F, tokens of a frame, width]."""
    assert evidence.n_frames is not None
    return features.reshape(evidence.batch, evidence.n_frames, -1, features.shape[-1])


def vidcom2(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], VidCom2: in each frame the tokens that stand out most, in more of them where the frame does.

    A token stands out the less it is like the mean token of the video and that of its frame: two sums of Gaussians of
    the distance, on the half of the channels that vary least, tokens of length 1.
    """
    return np.stack([_of_video(video, cut.tokens) for video in _frames(needed(evidence.features), evidence)])


def _of_video(frames: np.ndarray, tokens: int) -> np.ndarray:
    """float64 [N] of one video, [F, tokens of a frame, width]: how untypical each is, the chosen above the rest."""
    of_video, of_frame = typicality(frames)
    quotas = frame_quotas(-of_video.mean(axis=1), frames.shape[1], tokens)
    score: np.ndarray = 1 - (of_video + of_frame) / (2 * len(SCALES))  # 0 to 1
    for row, quota in zip(score, quotas, strict=True):
        row[highest(row, quota)] += 2
    return score.flatten()


def typicality(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [F, n] twice, how like each token of [F, n, width] is to the mean of the video and to that of its frame;
    each 5 at most."""
    variance = frames.reshape(-1, frames.shape[-1]).var(axis=0)
    steady = np.argsort(variance, kind="stable")[: max(int(len(variance) * CHANNEL_SHARE), 1)]
    vectors = unit(frames[..., steady])
    centres = vectors.mean(axis=(0, 1), keepdims=True), vectors.mean(axis=1, keepdims=True)
    of_video, of_frame = (((vectors - centre) ** 2).sum(axis=-1) for centre in centres)
    return _gaussians(of_video), _gaussians(of_frame)


def _gaussians(squared: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sum([np.exp(-squared / (2 * scale)) for scale in SCALES], axis=0)
    return found


def frame_quotas(scores: np.ndarray, per_frame: int, tokens: int) -> np.ndarray:
    """int64 [F], tokens that each frame keeps; they sum to T, and each is 1 at least where T allows it.

    Args:
        scores: float64 [F], how much each frame stands out.
        per_frame: tokens of a frame.
        tokens: T.
    """
    parts = np.exp((scores - scores.max()) / TEMPERATURE)
    parts /= parts.sum()
    ideal = np.minimum(tokens / len(scores) * (1 + parts - parts.mean()), per_frame)
    quotas = np.maximum(np.floor(ideal), 1 if tokens >= len(scores) else 0).astype(np.int64)
    while quotas.sum() > tokens:
        quotas[quotas.argmax()] -= 1
    room = np.full(len(scores), per_frame)
    return filled(quotas, room, tokens, np.argsort(np.floor(ideal) - ideal, kind="stable"))
