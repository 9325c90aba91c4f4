"""What a pruning method is: one dataclass that says where it cuts, what it looks at, and how it ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowcut.criteria.evidence import Budget, DecoderEvidence, Evidence, highest
from flowcut.criteria.stages import DECODER, PICTURE, STAGES, Stage
from flowcut.errors import InvalidCut

OneShot = Callable[[Evidence, Budget], np.ndarray]
"""Evidence and cut in; float64 [B, N] ranking out, the T highest stay."""
Joins = Callable[[Evidence, Budget, np.ndarray], np.ndarray]
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
    rank: Callable[[DecoderEvidence, Budget], np.ndarray]
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

    @property
    def cuts_at(self) -> Stage:
        """The stage at which it cuts."""
        return STAGES[self.stage]

    def check(self) -> None:
        """
        Raises:
            InvalidCut: it lacks what its stage needs, or asks for evidence that nobody gathers.
        """
        if self.stage not in STAGES or self.cuts_at is PICTURE:
            raise InvalidCut(f"The stage is {self.stage!r}: choose encoder, projector or decoder.")
        is_decoder = self.cuts_at is DECODER
        if is_decoder != (self.decoder is not None) or is_decoder == (self.rank is not None):
            raise InvalidCut(
                "A method of the decoder stage has decoder=DecoderPlan(layers, rank), one of another stage rank=, a "
                "function of evidence and cut."
            )
        given = self.cuts_at.gathered()
        strange = [name for name in self.needs if name not in given]
        if strange:
            raise InvalidCut(f"needs holds {strange[0]!r}: the {self.stage} stage gathers {', '.join(given)}.")

    def select(self, evidence: Evidence, cut: Budget) -> np.ndarray:
        """int64 [B, T], the patches that stay, ascending, with T < N; of equal ranks, the first in reading order."""
        assert self.rank is not None
        return highest(self.rank(evidence, cut), cut.tokens)
