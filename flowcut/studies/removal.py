"""What the answer loses when patches are taken away: knock-outs, and curves of deletion and insertion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from flowcut.checks import whole_number
from flowcut.criteria.positions import Positions
from flowcut.errors import FlowCutError
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import (
    KnockOut,
    RemovalCurves,
)
from flowcut.studies.scorer import AnswerScorer
from flowcut.studies.steps import KnownScores, in_shares

TIE_SEED = 0
"""Of the draw that orders patches of equal rank."""


def knock_out(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    block: int = 1,
    *,
    system: str | None = None,
    positions: Positions = "kept",
) -> Iterator[KnockOut]:
    """The answer without each block of `block` x `block` patches, and with each alone; the last yield is complete.

    With positions renumbered a block's effect is mostly that all tokens behind it move: it is then a smooth curve of
    reading order, whatever the block shows.

    Raises:
        FlowCutError: this model's visual tokens are not its patches, or a block is not of 1 patch or more.
    """
    block = whole_number("block", block, least=1)
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    blocks = block_of_patch(scorer.n_patches // scorer.grid_cols, scorer.grid_cols, block)
    ids, count = np.arange(scorer.n_patches), int(blocks.max()) + 1
    full, no_image = scorer.score([ids, ids[:0]], positions).total.tolist()
    insertion, without = np.full(count, np.nan), np.full(count, np.nan)

    def so_far() -> KnockOut:
        done = float(np.isfinite([insertion, without]).mean())
        return KnockOut(
            block, blocks, without.copy(), insertion.copy(), full, no_image, done, scorer.grid_cols, positions
        )

    yield so_far()
    for found, keeps in ((insertion, True), (without, False)):
        sets = [ids[(blocks == one) == keeps] for one in range(count)]
        for share, scores in in_shares(sets, partial(scorer.score, positions=positions)):
            found[share] = scores.total
            yield so_far()


def block_of_patch(rows: int, cols: int, block: int) -> np.ndarray:
    """int64 [rows * cols], the square block that each patch lies in; blocks are counted in reading order."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    across = -(-cols // block)
    return np.asarray((row // block) * across + col // block)


def deletion_insertion(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    rankings: Mapping[str, np.ndarray],
    steps: int = 16,
    *,
    system: str | None = None,
    positions: Positions = "kept",
) -> Iterator[RemovalCurves]:
    """Each ranking's curves: its highest patches removed first, and its highest alone, in `steps` equal steps.

    Patches of equal rank come in the order of one fixed draw: reading order would favour the top of the picture.

    Args:
        rankings: by name float [N], higher counts as more; `-inf` is allowed, NaN is not.
        positions: of the tokens that are there, as in the full prompt or renumbered without gaps.

    Raises:
        FlowCutError: a ranking does not have one number for each patch, or there is not one step at least.
    """
    steps = whole_number("steps", steps, least=1)
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    orders = {name: highest_first(name, ranking, scorer.n_patches) for name, ranking in rankings.items()}
    counts = np.unique(np.round(np.linspace(0, scorer.n_patches, steps + 1)).astype(int))
    known = KnownScores(scorer)
    for name, order in orders.items():
        sets = [*(order[count:] for count in counts), *(order[:count] for count in counts)]
        totals = known.totals(sets, positions)
        yield RemovalCurves(name, counts / scorer.n_patches, totals[: len(counts)], totals[len(counts) :], positions)


def highest_first(name: str, ranking: Any, n_patches: int) -> np.ndarray:
    """int64 [N], patch ids from the highest-ranked to the lowest; equal ones in the order of a fixed draw.

    Raises:
        FlowCutError: the ranking does not have one number for each patch.
    """
    numbers = np.asarray(ranking, dtype=np.float64)
    if numbers.shape != (n_patches,) or np.isnan(numbers).any():
        raise FlowCutError(
            f"The ranking {name!r} has the shape {list(numbers.shape)} with {int(np.isnan(numbers).sum())} NaN: give "
            f"one number for each of the {n_patches} patches."
        )
    drawn = np.random.default_rng(TIE_SEED).permutation(n_patches)
    return np.lexsort((drawn, -numbers))
