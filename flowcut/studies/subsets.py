"""The primary causal check: which blocks carry the answer at the budget at which methods cut, from sampled subsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flowcut.checks import whole_number
from flowcut.criteria.positions import Positions
from flowcut.errors import FlowCutError
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import AnswerScores, SubsetEffects
from flowcut.studies.removal import block_of_patch
from flowcut.studies.scorer import AnswerScorer
from flowcut.studies.steps import in_shares
from flowcut.studies.subset_effects import full_length, random_rounds, ridge, split_half

MOST_SETS = 6400
"""Sets that are read at most unless more are asked for."""
LEAST_SETS = 400
"""Sets before which no reliability ends the study: of few it is itself a matter of luck."""
RELIABLE = 0.6
"""The reliability at which a study ends by itself."""
FIRST_ESTIMATE = 100
"""Sets at the first estimate."""
GROWTH = 1.25
"""How much more sets there are at the next estimate than at the last one."""


def sampled_subsets(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    tokens: int = 64,
    block: int = 2,
    *,
    mixed_sizes: bool = False,
    reliability: float | None = RELIABLE,
    most_sets: int = MOST_SETS,
    seed: int = 0,
    system: str | None = None,
    positions: Positions = "kept",
) -> Iterator[SubsetEffects]:
    """What each block adds to the answer among random sets of blocks of a budget's size; estimates as they settle.

    ```python
    for found in flowcut.sampled_subsets(model, image, question, full.token_ids, tokens=64):
        found.sets, found.reliability, found.effect
    ```

    Many random sets of blocks are kept, and the answer's log-odds (float64) regressed on which blocks are there: ridge
    regression, the penalty by generalised cross-validation. Unlike one knock-out from the full picture, where others
    stand in for nearly every block, this asks at the budget at which methods cut.

    Args:
        model: from `flowcut.load`; image, question and system as in `flowcut.ask`.
        answer_ids: the full answer's token ids.
        tokens: the budget; a set has as many blocks as come nearest to it.
        block: side of a block, in patches.
        mixed_sizes: whether sets of a quarter, half, twice and four times the size come as often.
        reliability: the study ends when two estimates in turn reach it; None: only when `most_sets` are read.
        most_sets: sets that are read at most.
        seed: of the sets.
        positions: of the tokens that are there.

    Raises:
        FlowCutError: this model's visual tokens are not its patches, or the settings leave nothing to choose.
    """
    block, most_sets = whole_number("block", block, least=1), whole_number("most_sets", most_sets, least=4)
    tokens, seed = whole_number("tokens", tokens, least=1), whole_number("seed", seed, least=0)
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    blocks = block_of_patch(scorer.n_patches // scorer.grid_cols, scorer.grid_cols, block)
    sizes = set_sizes(int(blocks.max()) + 1, tokens, block, mixed_sizes)
    study = _Study(scorer, blocks, sizes, np.random.default_rng(seed), positions)
    full, no_image = scorer.score([np.arange(scorer.n_patches), []], positions).log_odds.tolist()
    unknown = np.full(int(blocks.max()) + 1, np.nan)
    found = SubsetEffects(
        block, blocks, unknown, np.nan, np.nan, np.nan, 0, sizes, np.nan, full, no_image, 0.0, False,
        scorer.grid_cols, seed, positions,
    )  # fmt: skip
    yield found
    yield from study.estimates(found, most_sets, reliability)


def set_sizes(n_blocks: int, tokens: int, block: int, mixed: bool) -> tuple[int, ...]:
    """Blocks in a set at a budget; mixed: also a quarter, half, twice and four times as many, each if it can be.

    Raises:
        FlowCutError: a set would hold all blocks, so that there is nothing to choose.
    """
    size = max(1, round(tokens / block**2))
    if size >= n_blocks:
        raise FlowCutError(
            f"tokens is {tokens}, which is all {n_blocks} blocks of {block} x {block} patches: choose fewer tokens or "
            "smaller blocks, so that sets differ."
        )
    if not mixed:
        return (size,)
    return tuple(sorted({one for one in (size // 4, size // 2, size, 2 * size, 4 * size) if 1 <= one < n_blocks}))


@dataclass
class _Study:
    """The sets read so far, and what they gave."""

    scorer: AnswerScorer
    blocks: np.ndarray
    sizes: tuple[int, ...]
    rng: np.random.Generator
    positions: Positions
    included: list[np.ndarray] = field(default_factory=list)
    log_odds: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def estimates(self, found: SubsetEffects, most_sets: int, reliability: float | None) -> Iterator[SubsetEffects]:
        """Estimates of more and more sets, and between them how far the reading is."""
        drawn, reached, read = self._drawn(most_sets), False, 0
        while read < most_sets and not found.settled:
            due = min(max(FIRST_ESTIMATE, round(GROWTH * read)), most_sets)
            for share, scores in in_shares(drawn[read:due], self._score):
                self.included += drawn[read:due][share]
                self.log_odds += scores.log_odds.tolist()
                self.exact += scores.exact_match.tolist()
                done = len(self.included) / most_sets
                found = replace(found, sets=len(self.included), exact_match=float(np.mean(self.exact)), done=done)
                if found.sets < due:
                    yield found
            read, found = due, self._estimate(found)
            reaches = reliability is not None and read >= LEAST_SETS and found.reliability >= reliability
            found, reached = replace(found, settled=reached and reaches), reaches
            yield found

    def _score(self, included: Sequence[np.ndarray]) -> AnswerScores:
        return self.scorer.score([np.flatnonzero(one[self.blocks]) for one in included], self.positions)

    def _drawn(self, most_sets: int) -> list[np.ndarray]:
        """bool [P] of each set, in whole rounds but for the last."""
        drawn: list[np.ndarray] = []
        rounds = enumerate(random_rounds(int(self.blocks.max()) + 1, self.sizes, self.rng))
        while len(drawn) < most_sets:
            number, one_round = next(rounds)
            drawn += list(one_round[: most_sets - len(drawn)])
            self.rounds += [number] * (len(drawn) - len(self.rounds))
        return drawn

    def _estimate(self, found: SubsetEffects) -> SubsetEffects:
        included, outcome = np.array(self.included), np.array(self.log_odds)[:, None]
        fit = ridge(included, outcome)
        half = float(split_half(included, outcome, np.array(self.rounds[: len(included)]))[0])
        return replace(
            found,
            effect=fit.effect[0],
            explained=float(fit.explained[0]),
            half_agreement=half,
            reliability=float(full_length(half)),
        )
