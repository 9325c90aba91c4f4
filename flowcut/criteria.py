"""Every pruning method by name. A new one-shot method is one function and one line in `METHODS`.

FlowCut itself decides layer by layer (`scores.py`, `schedule.py`); the others look once, at the feature layer, and
cut there: all layers before run on the whole picture. Imports no torch, so that names can be checked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowcut.schedule import CutConfig


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a one-shot method may look at: one vision encoder's run over a batch, all N patches still alive."""

    batch: int
    """B, images."""
    n_patches: int
    """N, patches per image."""
    cls_attention: np.ndarray | None
    """float64 [B, N], head-mean attention that CLS pays to each patch at the chosen layer; None unless asked for."""


OneShot = Callable[[Evidence, CutConfig], np.ndarray]
"""Evidence and cut in; int64 [B, T] kept patch ids out, ascending, with T < N."""


@dataclass(frozen=True)
class Method:
    """One line of the registry."""

    label: str
    """Name in titles and legends."""
    source: str
    """Where the method comes from, in one line."""
    select: OneShot | None = None
    """The one-shot selection; None for FlowCut, which scores every layer and cuts in steps."""
    has_variants: bool = False
    takes_layer: bool = False
    takes_seed: bool = False


def random(evidence: Evidence, cut: CutConfig) -> np.ndarray:
    """T patches drawn without replacement; one stream for the batch, or the same draw for each image if per image."""
    stream = np.random.default_rng(cut.seed)
    kept = []
    for _ in range(evidence.batch):
        image_stream = np.random.default_rng(cut.seed) if cut.per_image else stream
        kept.append(np.sort(image_stream.permutation(evidence.n_patches)[: cut.tokens]))
    return np.stack(kept)


def stride(evidence: Evidence, cut: CutConfig) -> np.ndarray:
    """Every N/T-th patch in reading order: patch floor(i N / T) for i = 0 .. T-1."""
    ids = np.arange(cut.tokens) * evidence.n_patches // cut.tokens
    return np.tile(ids, (evidence.batch, 1))


def cls_attention(evidence: Evidence, cut: CutConfig) -> np.ndarray:
    """The T patches that CLS attends to most at one layer; of equal ones, the first in reading order."""
    assert evidence.cls_attention is not None
    strongest_first = np.argsort(-evidence.cls_attention, axis=1, kind="stable")
    return np.sort(strongest_first[:, : cut.tokens], axis=1)


METHODS: dict[str, Method] = {
    "flowcut": Method("FlowCut", "FlowCut, arXiv 2505.19536 (NeurIPS 2025)", has_variants=True),
    "random": Method("Random", "control: a seeded draw that looks at nothing", random, takes_seed=True),
    "stride": Method("Stride", "control: evenly spaced patches that look at nothing", stride),
    "cls-attention": Method(
        "CLS attention", "one layer's CLS row: FasterVLM (last layer), VisionZip (feature layer)", cls_attention,
        takes_layer=True,
    ),
}  # fmt: skip


def methods() -> dict[str, str]:
    """Every method's name with the one line that says where it comes from."""
    return {name: method.source for name, method in METHODS.items()}
