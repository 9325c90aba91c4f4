"""What benchmarks/causal.py measures of one scene: a line of its results, with every number that the tables need."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import flowcut
from flowcut.criteria import METHODS
from flowcut.criteria.positions import KEPT, POSITIONS
from flowcut.families.support import hands_cls, positions_under
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import log_odds
from flowcut.records.vision import Geometry
from flowcut.studies.one_shot import PatchChooser
from flowcut.studies.removal import block_of_patch
from flowcut.studies.scorer import AnswerScorer, score_cut_together, score_together
from flowcut.studies.subset_effects import random_rounds, ridge, split_half
from flowcut.studies.subsets import set_sizes
from flowcut_lens.analysis.causal import block_mean
from flowcut_lens.analysis.truth import patch_coverage, recall
from flowcut_lens.scenes import Scene, about, draw, matches

BLOCK = 2
RANKED_AT = 64
"""The budget at which a criterion ranks the patches, and of the sets' size."""
BUDGETS = (192, 128, 64, 32, 16)
SETS = 3204
"""Random sets of the budget's size: chosen on 8 validation scenes, where their reliability is 0.60 (32 questions; 0.56
with half as many; without products of the strongest blocks 0.52)."""
MIXED_SETS = 800
"""Of mixed sizes, a second reading."""
FRESH = 20
"""Random rankings drawn for every question, which are the null."""
DIGITS = 5

Cuts = Mapping[str, Sequence[flowcut.CutConfig]]
"""By method, what stands for it: itself, or the random draw with several seeds; at the ranking's budget."""


def measure_scene(model: VisionLanguageModel, seed: int, questions: list[dict[str, Any]], cuts: Cuts) -> dict[str, Any]:
    """One line of the results: a scene and all that was found for each of its questions."""
    started = {"subsets": time.process_time()}
    scene = draw(seed)
    scorers, given = _asked(model, scene, questions)
    blocks = block_of_patch(scorers[0].n_patches // scorers[0].grid_cols, scorers[0].grid_cols, BLOCK)
    subsets, mixed = (_subsets(scorers, blocks, seed, is_mixed) for is_mixed in (False, True))
    started["blocks"] = time.process_time()
    single = _single(scorers, blocks)
    started["cuts"] = time.process_time()
    chooser = PatchChooser(scorers[0])
    kept, rankings = _kept(scorers, chooser, cuts)
    started["objects"] = time.process_time()
    objects = _objects(model, scene, questions, scorers, kept["patches"])
    ended = [*list(started.values())[1:], time.process_time()]
    rows = []
    for place, question in enumerate(questions):
        ranks = {name: [block_mean(one, blocks) for one in own[place]] for name, own in rankings.items()}
        effects = {"subsets": subsets[place], "mixed": mixed[place], "single": single[place]}
        fresh = np.random.default_rng((seed, place))
        ranks["random"] = [block_mean(fresh.permutation(len(blocks)), blocks) for _ in range(FRESH)]
        rows.append(
            {
                **question,
                "given": given[place],
                "right": bool(matches(given[place], question["answer"])),
                **{name: {**one, "spearman": _agreements(ranks, one)} for name, one in effects.items()},
                "kept": {name: own[place] for name, own in kept["answers"].items()},
                "objects": objects[place],
            }
        )
    cpu = {name: round(end - begin, 2) for (name, begin), end in zip(started.items(), ended, strict=True)}
    return {"seed": seed, "cpu": cpu, "questions": rows}


def _asked(
    model: VisionLanguageModel, scene: Scene, questions: list[dict[str, Any]]
) -> tuple[list[AnswerScorer], list[str]]:
    """A scorer for each question's full answer, which share one encoded picture, and the answers."""
    runs = [flowcut.ask(model, scene.image, question["question"], record=False) for question in questions]
    first = AnswerScorer(model, scene.image, questions[0]["question"], runs[0].token_ids)
    others = (first.also(question["question"], run.token_ids) for question, run in zip(questions, runs, strict=True))
    return [first, *islice(others, 1, None)], [run.answer for run in runs]


def _short(values: Any) -> Any:
    """Numbers with so many significant digits, as JSON holds them in few characters."""
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, np.float64).tolist()]


def _subsets(scorers: list[AnswerScorer], blocks: np.ndarray, seed: int, mixed: bool) -> list[dict[str, Any]]:
    """By question, what each block adds among random sets, and how far that is known."""
    n_blocks, wanted = int(blocks.max()) + 1, MIXED_SETS if mixed else SETS
    sizes = set_sizes(n_blocks, RANKED_AT, BLOCK, mixed)
    a_round = len(sizes) if mixed else n_blocks // sizes[0]
    drawn = islice(random_rounds(n_blocks, sizes, np.random.default_rng((seed, int(mixed)))), -(-wanted // a_round))
    included = np.concatenate(list(drawn))[:wanted]
    found = score_together(scorers, [np.flatnonzero(one[blocks]) for one in included], KEPT)
    outcome = np.stack([scores.log_odds for scores in found], axis=1)
    fit, halves = ridge(included, outcome), split_half(included, outcome, np.arange(len(included)) // a_round)
    return [
        {
            "effect": _short(fit.effect[place]),
            "half": round(float(halves[place]), 4) if np.isfinite(halves[place]) else None,
            "explained": round(float(fit.explained[place]), 4),
            "exact": round(float(found[place].exact_match.mean()), 4),
        }
        for place in range(len(scorers))
    ]


def _single(scorers: list[AnswerScorer], blocks: np.ndarray) -> list[dict[str, Any]]:
    """By question, the log-odds of its answer, what each block alone changes, and without any picture."""
    ids = np.arange(len(blocks))
    sets = [ids, ids[:0], *(ids[blocks != block] for block in range(blocks.max() + 1))]
    totals = [scores.total for scores in score_together(scorers, sets, KEPT)]
    return [
        {"full": _short(log_odds(one[:1]))[0], "no_image": _short(log_odds(one[1:2]))[0],
         "effect": _short(log_odds(one[0]) - log_odds(one[2:]))}
        for one in totals
    ]  # fmt: skip


def _kept(
    scorers: list[AnswerScorer], chooser: PatchChooser, cuts: Cuts
) -> tuple[dict[str, Any], dict[str, list[list[np.ndarray]]]]:
    """Whether answers are kept, which patches are, and each question's rankings by criterion.

    `answers`: by criterion and question, by positions and budget the share of the seeds that keep it; ablations with
    their release's positions alone. `patches`: by criterion what it keeps at the ranking's budget, by question; of a
    random draw the first seed.
    """
    answers: dict[str, Any] = {}
    patches: dict[str, list[np.ndarray]] = {}
    rankings: dict[str, list[list[np.ndarray]]] = {}
    for name, seeds in cuts.items():
        answers[name], ranked = [{} for _ in scorers], list[flowcut.AnswerScores]()
        own_positions, *_ = both = _positions_of(name, seeds[0], scorers[0].model)
        for positions in both:
            for tokens in BUDGETS:
                placed = [replace(cut, tokens=tokens, positions=positions) for cut in seeds]
                scores = [_scores(scorers, chooser, cut) for cut in placed]
                ranked = scores[0] if (tokens, positions) == (RANKED_AT, own_positions) else ranked
                for place, own in enumerate(answers[name]):
                    exact = float(np.mean([one[place].exact_match[0] for one in scores]))
                    own.setdefault(positions, {})[str(tokens)] = round(exact, 3)
        if METHODS[name].ranks and name != "random":
            rankings[name] = _rankings(chooser, seeds[0], ranked)
            count = RANKED_AT - (1 if hands_cls(seeds[0], scorers[0].model.family) else 0)
            patches[name] = [np.argsort(-one[0], kind="stable")[:count] for one in rankings[name]]
        elif chooser.knows(seeds[0]):
            patches[name] = [chooser.kept(seeds[0])] * len(scorers)
    return {"answers": answers, "patches": patches}, rankings


def _positions_of(name: str, cut: flowcut.CutConfig, model: VisionLanguageModel) -> Sequence[Any]:
    """The release's first, then the other; of ablations, and of what can have no other, the release's alone."""
    own = positions_under(cut, model.family)
    alone = METHODS[name].kind == "ablation" or METHODS[name].stage == "picture" or hands_cls(cut, model.family)
    return [own] if alone else [own, *(one for one in POSITIONS if one != own)]


def _scores(scorers: list[AnswerScorer], chooser: PatchChooser, cut: flowcut.CutConfig) -> list[flowcut.AnswerScores]:
    if chooser.knows(cut):
        return score_together(scorers, [chooser.kept(cut)], positions_under(cut, scorers[0].model.family))
    return score_cut_together(scorers, cut)


def _rankings(
    chooser: PatchChooser, cut: flowcut.CutConfig, scores: list[flowcut.AnswerScores]
) -> list[list[np.ndarray]]:
    """By question, what a criterion ranks the patches by, from its scores at this budget unless it looks but once."""
    rankings = [chooser.ranking(cut) if chooser.knows(cut) else one.ranking for one in scores]
    return [[] if ranking is None else [ranking] for ranking in rankings]


def _agreements(ranks: Mapping[str, list[np.ndarray]], found: Mapping[str, Any]) -> dict[str, float | None]:
    """By criterion, Spearman between its ranks of the blocks and what they add (of single blocks: absolute)."""
    effect = np.asarray(found["effect"])
    effect = np.abs(effect) if "full" in found else effect
    if np.ptp(effect) == 0:
        return dict.fromkeys(ranks)
    agreement = partial(spearmanr, effect)
    return {
        name: round(float(np.mean([agreement(one).statistic for one in own])), 5) for name, own in ranks.items() if own
    }


def _objects(
    model: VisionLanguageModel,
    scene: Scene,
    questions: list[dict[str, Any]],
    scorers: list[AnswerScorer],
    patches: Mapping[str, list[np.ndarray]],
) -> list[list[dict[str, Any]]]:
    """By question, what is lost without each object of the scene, and how much of it each criterion keeps."""
    ids, geometry = np.arange(scorers[0].n_patches), scene_geometry(scene, scorers[0].grid_cols)
    coverages = [patch_coverage(thing.mask, geometry) for thing in scene.objects]
    sets = [ids, *(ids[coverage == 0] for coverage in coverages)]
    in_tokens = score_together(scorers, sets, KEPT)
    rows: list[list[dict[str, Any]]] = [[] for _ in scorers]
    for number, coverage in enumerate(coverages):
        bare = _again(model, draw(scene.seed, without=number).image, questions, scorers)
        in_picture = score_together(bare, [ids], KEPT)
        for place, scorer_rows in enumerate(rows):
            full, tokens, picture = in_tokens[place].log_odds[0], in_tokens[place], in_picture[place]
            kept = {name: recall(coverage, _mask(own[place], len(ids)))[0] for name, own in patches.items()}
            scorer_rows.append(
                {
                    "asked": number in (about(scene, questions[place]["question"]) or ()),
                    "picture": [*_short([full - picture.log_odds[0]]), int(not picture.exact_match[0])],
                    "tokens": [*_short([full - tokens.log_odds[1 + number]]), int(not tokens.exact_match[1 + number])],
                    "kept": {name: round(float(share), 3) for name, share in kept.items()},
                }
            )
    return rows


def _again(
    model: VisionLanguageModel, image: Any, questions: list[dict[str, Any]], scorers: list[AnswerScorer]
) -> list[AnswerScorer]:
    """The same questions and answers about another picture."""
    first = AnswerScorer(model, image, questions[0]["question"], scorers[0].answer_ids)
    pairs = zip(questions[1:], scorers[1:], strict=True)
    return [first, *(first.also(question["question"], one.answer_ids) for question, one in pairs)]


def _mask(patches: np.ndarray, n_patches: int) -> np.ndarray:
    """bool [1, N]."""
    mask = np.zeros((1, n_patches), bool)
    mask[0, patches] = True
    return mask


def scene_geometry(scene: Scene, cols: int) -> Geometry:
    """A square grid of so many columns laid on a scene, which no processor resizes."""
    size = scene.image.width
    return Geometry(size, size, size, size, 0, 0, size, size, size // cols, cols, cols)
