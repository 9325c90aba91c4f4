"""Every method beside the full answer: what it answers, how probable the full answer is, what it ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.criteria.positions import Positions
from flowcut.cut import CutConfig
from flowcut.generation.ask import ask
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.run import Run
from flowcut.records.studies import (
    MethodResult,
    PatchRanking,
)
from flowcut.settings import Generation
from flowcut.studies.one_shot import PatchChooser
from flowcut.studies.scorer import AnswerScorer
from flowcut.studies.steps import attempt, score_at, with_positions

NO_ANSWER = 0
"""A token id that stands where only the picture matters."""


def compare_methods(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    full: Run,
    cuts: Sequence[CutConfig],
    *,
    positions: Positions | None = None,
) -> Iterator[MethodResult]:
    """Ask the same question under every cut, with the settings of `full`, and score the full answer there.

    `positions` are those of every cut, which the result's cut then names; None: as each cut says.

    Only FlowCut and its ablations are recorded: up to its cut, the encoder of a one-shot method does what it does in
    the full run. A method that fails has its sentence in its result, and the others go on.

    Raises:
        FlowCutError: the full run has no answer, or picture and question cannot be used.
    """
    scorer = AnswerScorer(model, image, question, full.token_ids, full.generation.get("system"))
    chooser = PatchChooser(scorer)
    settings = Generation.from_facts(full.generation)
    if full.stopped:
        settings = replace(settings, max_new_tokens=len(full.tokens))
    for cut in cuts:
        yield _compare_one(scorer, chooser, question, full, with_positions(cut, positions), settings)


def _compare_one(
    scorer: AnswerScorer, chooser: PatchChooser, question: str, full: Run, cut: CutConfig, settings: Generation
) -> MethodResult:
    recorded = METHODS[cut.method].recipe is not None
    run, failed = attempt(lambda: ask(scorer.model, scorer.picture, question, cut, settings=settings, record=recorded))
    if run is None:
        return MethodResult(cut, None, None, False, failed)
    if run.token_ids == full.token_ids:  # then the run itself has measured them
        return MethodResult(cut, run, np.array([token.logprob for token in run.tokens]), True)
    scores, failed = attempt(partial(score_at, scorer, chooser, cut))
    return MethodResult(cut, run, None if scores is None else scores.logprobs[0], False, failed)


def rank_patches(
    model: VisionLanguageModel, image: Any, question: str, cuts: Sequence[CutConfig], *, system: str | None = None
) -> Iterator[PatchRanking]:
    """What each method ranks the patches by, without its answer; a method that fails has its sentence.

    Raises:
        FlowCutError: picture or question cannot be used.
    """
    scorer = AnswerScorer(model, image, question, [NO_ANSWER], system)
    chooser = PatchChooser(scorer)
    for cut in cuts:
        ranking, failed = attempt(partial(_ranking_of, scorer, chooser, cut))
        yield PatchRanking(cut, ranking, failed)


def _ranking_of(scorer: AnswerScorer, chooser: PatchChooser, cut: CutConfig) -> np.ndarray | None:
    return chooser.ranking(cut) if chooser.knows(cut) else scorer.score_cut(cut).ranking
