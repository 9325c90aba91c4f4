"""What the studies of scoring.py and studies.py find: frozen arrays, no torch, so that figures can be drawn of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.criteria.positions import RENUMBERED
from flowcut.cut import CutConfig
from flowcut.records.display import one_line
from flowcut.records.run import Run


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """How probable one answer is under K choices of visual tokens; A is its number of tokens."""

    logprobs: np.ndarray
    """float64 [K, A], ln p of each answer token given those before it, from the raw logits."""
    exact_match: np.ndarray
    """bool [K], whether the likeliest token is the answer's own at every place, the end token included: greedy decoding
    then writes this answer."""
    ranking: np.ndarray | None = None
    """float32 [N], of a CutConfig: what it ranked the patches by, as `Run.ranking` says; None where there is none."""
    positions: str = RENUMBERED
    """Of the tokens that stayed: `kept`, those of the full prompt, or `renumbered`."""

    __repr__ = one_line

    @property
    def total(self) -> np.ndarray:
        """float64 [K], ln p of the whole answer."""
        return np.asarray(self.logprobs.sum(axis=1, dtype=np.float64))

    @property
    def log_odds(self) -> np.ndarray:
        """float64 [K], ln p - ln(1 - p) of the whole answer: not flat where it is all but certain."""
        return log_odds(self.total)


def log_odds(total: np.ndarray | float) -> np.ndarray:
    """float64, ln p - ln(1 - p) of answers whose ln p is given; at most 36.7, where 1 - p is float64's last digit."""
    least = np.finfo(np.float64).eps / 2
    logprob = np.minimum(np.asarray(total, np.float64), -least)
    return np.asarray(logprob - np.log(-np.expm1(logprob)))


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One pruning method beside the full picture."""

    cut: CutConfig
    run: Run | None
    """The method's own answer; None where it could not be given."""
    logprobs: np.ndarray | None
    """float [A], ln p of each token of the FULL answer under this cut; None where it could not be measured."""
    exact_match: bool
    """Whether the method's answer is, token for token, that of the full picture."""
    error: str | None = None
    """One sentence on why a part is missing."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class PatchRanking:
    """What one method ranks the patches by, at its budget."""

    cut: CutConfig
    ranking: np.ndarray | None
    """float32 [N], as `Run.ranking`: higher is kept longer; None where the method ranks nothing, or failed."""
    error: str | None = None
    """One sentence on why it failed."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class KnockOut:
    """How probable the answer is without each block of patches, and with nothing but it; P blocks, N patches.

    A log-prob drop says what the answer's probability loses when the language model is not given these tokens.
    Every token left was made by a vision encoder that saw the full picture.
    """

    block: int
    """Side of a block, in patches; those at the far edges are smaller where the grid cannot be divided."""
    block_of_patch: np.ndarray
    """int64 [N], the block of each patch; blocks in reading order."""
    without: np.ndarray
    """float64 [P], ln p of the answer with the full picture but this block; NaN: not yet measured."""
    insertion: np.ndarray
    """float64 [P], ln p of the answer with this block alone; NaN: not yet measured."""
    full: float
    """ln p of the answer with all visual tokens."""
    no_image: float
    """ln p of the answer with no visual token."""
    done: float
    """Share of the study that is done, 0 to 1."""
    grid_cols: int
    """Patches in a row of the grid."""
    positions: str = RENUMBERED
    """Of the tokens that stay: `kept`, those of the full prompt, or `renumbered`, as all knock-outs were before."""

    __repr__ = one_line

    @property
    def logprob_drop(self) -> np.ndarray:
        """float64 [P], full - without: positive where the answer needs the block."""
        return np.asarray(self.full - self.without)


@dataclass(frozen=True, eq=False)
class SubsetEffects:
    """What each block of patches adds to the answer among others drawn at random, as far as it is known; P blocks.

    It says what the language model makes of the vision encoder's output at this budget: every token was made by an
    encoder that saw the full picture. Blocks that can stand in for each other share what they add.
    """

    block: int
    """Side of a block, in patches; those at the far edges are smaller where the grid cannot be divided."""
    block_of_patch: np.ndarray
    """int64 [N], the block of each patch; blocks in reading order."""
    effect: np.ndarray
    """float64 [P], log-odds of the full answer that a block adds to a random set of the others (ridge regression). In
    sets of one size a block comes in place of another: effects are then against the mean block, and sum to about 0.
    NaN: not yet estimated."""
    half_agreement: float
    """Spearman's correlation between the effects estimated from two halves of the sets; NaN: not yet estimated."""
    reliability: float
    """What it says of all sets together (Spearman-Brown): 1 repeats exactly, 0 is noise."""
    explained: float
    """Share of the variance of the log-odds (within sets of one size) that the effects foresee in sets left out; the
    rest is what blocks do only together."""
    sets: int
    """Random sets read so far."""
    sizes: tuple[int, ...]
    """Blocks in a set."""
    exact_match: float
    """Share of the sets with which greedy decoding writes the full answer; NaN: none was read yet."""
    full: float
    """Log-odds of the full answer with all visual tokens."""
    no_image: float
    """Log-odds with no visual token."""
    done: float
    """Share of the most sets that may be read; the last estimate may come before all are."""
    settled: bool
    """Whether the reliability that was asked for is reached."""
    grid_cols: int
    """Patches in a row of the grid."""
    seed: int
    """Of the draw of the sets."""
    positions: str
    """Of the tokens that are there: `kept`, those of the full prompt, or `renumbered`."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class ObjectKnockOut:
    """What an answer loses without one object, in log-odds of the full answer."""

    name: str
    patch_ids: np.ndarray
    """int64, the patches that show the object, ascending."""
    answer: str
    """What is answered about the picture that never showed it."""
    full: float
    """Log-odds of the full answer with all visual tokens of the picture itself."""
    without_object: float
    """Log-odds of it with the picture that never showed the object, encoded anew."""
    without_patches: float
    """Log-odds of it with the picture itself, the object's patches kept from the language model."""
    flips_without_object: bool
    """Whether greedy decoding then writes another answer: the object was needed."""
    flips_without_patches: bool
    positions: str
    """Of the tokens that stay when patches are left out: `kept` or `renumbered`."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """One ranking of the patches, held against the answer by removing and by inserting its highest first."""

    name: str
    """Whose ranking it is."""
    removed: np.ndarray
    """float64 [F], share of the patches, 0 to 1."""
    deletion: np.ndarray
    """float64 [F], ln p of the answer without that share, the highest-ranked removed first."""
    insertion: np.ndarray
    """float64 [F], ln p of the answer with that share alone, the highest-ranked there first."""
    positions: str = RENUMBERED
    """Of the tokens that are there: `kept`, those of the full prompt, or `renumbered`."""

    __repr__ = one_line


@dataclass(frozen=True)
class SweepPoint:
    """One method at one budget."""

    cut: CutConfig
    logprob: float
    """ln p of the whole answer under the cut; NaN where it failed."""
    exact_match: bool
    """Whether greedy decoding under the cut writes this very answer."""
    error: str | None = None
    """One sentence on why it failed."""

    __repr__ = one_line


@dataclass(frozen=True)
class SmallestBudget:
    """The fewest tokens, of those tried, at which a method keeps the answer."""

    cut: CutConfig
    """The method; its own budget is of no account here."""
    tokens: int | None
    """The smallest budget tried that keeps the answer; None: none does."""
    tried: tuple[tuple[int, bool], ...]
    """Every budget tried and whether it keeps the answer, in the order of trying."""
    monotone: bool
    """Whether every larger budget that was tried keeps it too; False: more tokens changed the answer again."""
    done: bool
    """Whether the search has come to its end."""

    __repr__ = one_line
