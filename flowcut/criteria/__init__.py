"""Every pruning method by name. A new one is one function that ranks patches, and one line in `METHODS`.

FlowCut itself, and its ablations, decide layer by layer in the vision encoder (`scores.py`, `schedule.py`). The others
rank the patches, and the T highest stay: once at the encoder's feature layer (`encoder.py`, `controls.py`), once behind
the projector (`projector.py`), or after one or several layers of the language model (`decoder.py`). Imports no torch,
so that names can be checked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowcut.criteria.controls import chosen, random, stride
from flowcut.criteria.decoder import (
    dart,
    last_token_attention,
    pyramid_layers,
    rater_attention,
    second_layer,
    sparse_layers,
)
from flowcut.criteria.encoder import (
    cls_attention,
    cls_attention_x_value,
    column_mean,
    visionzip,
    visionzip_joins,
    vispruner,
)
from flowcut.criteria.evidence import DecoderEvidence, Evidence, highest
from flowcut.criteria.projector import divprune
from flowcut.schedule import CutConfig

__all__ = ["METHODS", "DecoderEvidence", "DecoderPlan", "Evidence", "Method", "Recipe", "highest", "methods"]

OneShot = Callable[[Evidence, CutConfig], np.ndarray]
"""Evidence and cut in; float64 [B, N] ranking out, the T highest stay."""
Joins = Callable[[Evidence, CutConfig, np.ndarray], np.ndarray]
"""Evidence, cut and ranking in; int64 [B, N] out, the kept patch that each cut one is merged into, -1: into none."""


@dataclass(frozen=True)
class Recipe:
    """FlowCut's parts, each of which an ablation leaves out."""

    cumulative: bool = True
    """Whether the scores of earlier layers count; else each prune point goes by its own layer alone."""
    multi_criteria: bool = True
    """S = (a^ + s^) w; else S = a^, the share of CLS attention alone."""
    adaptive: bool = True
    """Whether entropy says how many go; else the same number goes at every prune point."""


@dataclass(frozen=True)
class DecoderPlan:
    """Where and by what a method cuts inside the language model."""

    layers: Callable[[int], tuple[int, ...]]
    """Number of layers in; the layers (from 0) after which tokens go out."""
    rank: Callable[[DecoderEvidence, CutConfig], np.ndarray]
    """float64 [n], a ranking of the visual tokens alive; the highest stay."""
    looks_ahead: bool = False
    """Whether it looks at the attention of the layer behind the cut, run ahead on all tokens, not the one before it."""
    keeps_positions: bool = False
    """Whether survivors keep their positions, as released; else positions are renumbered without gaps."""
    differs: tuple[str, ...] = ()
    """What is done in another way than in the method's released code, one sentence each."""


@dataclass(frozen=True)
class Method:
    """One line of the registry."""

    label: str
    """Name in titles and legends."""
    source: str
    """Where the method comes from, in one line: paper, section."""
    stage: str = "encoder"
    """Where it cuts: `picture` (before the encoder), `encoder`, `projector` (behind it) or `decoder`."""
    kind: str = "peer"
    """`control`, `flowcut`, `ablation` (of FlowCut) or `peer` (another paper's)."""
    rank: OneShot | None = None
    """The ranking of a method that looks once, in the encoder or behind the projector."""
    needs: tuple[str, ...] = ()
    """Fields of the evidence that it looks at; nothing else is gathered."""
    recipe: Recipe | None = None
    """FlowCut and its ablations: which of its parts are in."""
    decoder: DecoderPlan | None = None
    """Methods of the decoder stage: where and by what they cut."""
    joins: Joins | None = None
    """Methods that merge what they cut: into which of the kept."""
    ranks: bool = True
    """Whether the ranking says more than which patches stay."""
    has_variants: bool = False
    takes_layer: bool = False
    default_layer: str = "feature layer"
    """What it looks at where no layer is given, in words."""
    takes_seed: bool = False
    takes_patches: bool = False
    """Whether somebody names the patches; such a method is no choice of a list of methods."""

    def select(self, evidence: Evidence, cut: CutConfig) -> np.ndarray:
        """int64 [B, T], the patches that stay, ascending, with T < N; of equal ranks, the first in reading order."""
        assert self.rank is not None
        return highest(self.rank(evidence, cut), cut.tokens)


DART_DIFFERS = (
    "The released DART gives each of its 8 pivots T/8 tokens and keeps the image pivots besides; here T are kept.",
)
STEPS_DIFFER = ("The same share of the visual tokens goes at each step, so that T are left after the last one.",)
SPARSE_DIFFERS = (
    "The released SparseVLM merges some of the pruned tokens into new ones (recycling); here they go.",
    "The released SparseVLM has a table of counts for budgets that are means over layers; here the same share goes at "
    "each step, so that T are left after the last one.",
)
FLOWCUT = "FlowCut, arXiv 2505.19536 (NeurIPS 2025)"


def _ablation(label: str, recipe: Recipe) -> Method:
    left_out = {
        "each layer's own score": not recipe.cumulative,
        "CLS attention alone": not recipe.multi_criteria,
        "as many at every prune point": not recipe.adaptive,
    }
    said = ", ".join(part for part, out in left_out.items() if out)
    return Method(
        f"FlowCut, {label}", f"{FLOWCUT}, ablation: {said}", kind="ablation", recipe=recipe, has_variants=True
    )


METHODS: dict[str, Method] = {
    "flowcut": Method("FlowCut", FLOWCUT, kind="flowcut", recipe=Recipe(), has_variants=True),
    "random": Method(
        "Random", "control: a seeded draw that looks at nothing", kind="control", rank=random, takes_seed=True
    ),
    "stride": Method(
        "Stride", "control: evenly spaced patches that look at nothing", kind="control", rank=stride, ranks=False
    ),
    "cls-attention": Method(
        "CLS attention", "one layer's CLS row: FasterVLM (last layer), VisionZip (feature layer)",
        rank=cls_attention, needs=("cls_attention",), takes_layer=True,
    ),
    "cls-attention-x-value": Method(
        "CLS attention x value",
        "one layer's CLS row times the norm of the values, as the released FlowCut code for Qwen scores",
        rank=cls_attention_x_value,
        needs=("cls_attention", "value_norm"),
        takes_layer=True,
    ),
    "column-mean": Method(
        "Column mean (HiPrune)",
        "HiPrune, arXiv 2508.00553, Method: anchor, buffer and register tokens by what all tokens attend to",
        rank=column_mean,
        needs=("middle_mean", "deep_mean"),
        takes_layer=True,
        default_layer="middle layer",
    ),
    "visionzip": Method(
        "VisionZip",
        "VisionZip, arXiv 2412.04467, Method: dominant tokens by CLS attention, the rest merged into contextual ones",
        rank=visionzip,
        needs=("cls_attention", "keys"),
        joins=visionzip_joins,
    ),
    "vispruner": Method(
        "VisPruner",
        "VisPruner, arXiv 2412.01818 (ICCV 2025), Method: important tokens by CLS attention, then diverse ones",
        rank=vispruner,
        needs=("cls_attention", "features"),
    ),
    "divprune": Method(
        "DivPrune",
        "DivPrune, arXiv 2503.02175 (CVPR 2025), Method: max-min diversity of the projected tokens",
        stage="projector",
        rank=divprune,
        needs=("features",),
    ),
    "cdpruner": Method(
        "CDPruner",
        "CDPruner, arXiv 2506.10967 (NeurIPS 2025), Method: a determinantal point process conditioned on the question",
        stage="projector",
        needs=("features", "text_tower"),
    ),
    "fastv": Method(
        "FastV",
        "FastV, arXiv 2403.06764 (ECCV 2024), Method: what the last token attends to in layer 1 (K = 2)",
        stage="decoder",
        needs=("last_attention",),
        decoder=DecoderPlan(second_layer, last_token_attention, keeps_positions=True),
    ),
    "dart": Method(
        "DART",
        "DART, arXiv 2502.11494 (EMNLP 2025), Method: the tokens least like a few pivots, after layer 1 (K = 2)",
        stage="decoder",
        needs=("visual_keys", "text_keys", "visual_states", "text_states"),
        decoder=DecoderPlan(second_layer, dart, keeps_positions=True, differs=DART_DIFFERS),
    ),
    "pyramiddrop": Method(
        "PyramidDrop",
        "PyramidDrop, arXiv 2410.17247 (CVPR 2025), Method: before 1/4, 1/2 and 3/4 of the decoder's layers",
        stage="decoder",
        needs=("last_attention",),
        decoder=DecoderPlan(pyramid_layers, last_token_attention, looks_ahead=True, differs=STEPS_DIFFER),
    ),
    "sparsevlm": Method(
        "SparseVLM",
        "SparseVLM, arXiv 2410.04417 (ICML 2025), Method: text raters, after layers 2, 6, 15 of 32; without recycling",
        stage="decoder",
        needs=("rater_attention",),
        decoder=DecoderPlan(sparse_layers, rater_attention, differs=SPARSE_DIFFERS),
    ),
    "downsample": Method(
        "Downsample",
        "control: the picture at the resolution that gives as many patches",
        stage="picture",
        kind="control",
        ranks=False,
    ),
    "flowcut-equal": _ablation("equal counts", Recipe(adaptive=False)),
    "flowcut-attention": _ablation("attention only", Recipe(multi_criteria=False)),
    "flowcut-attention-equal": _ablation("attention only, equal counts", Recipe(multi_criteria=False, adaptive=False)),
    "flowcut-single": _ablation("single layer", Recipe(cumulative=False)),
    "flowcut-single-equal": _ablation("single layer, equal counts", Recipe(cumulative=False, adaptive=False)),
    "flowcut-single-attention": _ablation(
        "single layer, attention only", Recipe(cumulative=False, multi_criteria=False)
    ),
    "flowcut-single-attention-equal": _ablation(
        "single layer, attention only, equal counts", Recipe(False, False, False)
    ),
    "chosen": Method(
        "Chosen", "control: the patches that someone named", kind="control", rank=chosen, ranks=False,
        takes_patches=True,
    ),
}  # fmt: skip


def methods() -> dict[str, str]:
    """Every method's name with the one line that says where it comes from."""
    return {name: method.source for name, method in METHODS.items()}
