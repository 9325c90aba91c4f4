"""Which criterion does the causal check trust? Over the held-out scenes, four questions each, with the embedded model.

For every question the answer of the full picture is scored again without each 2 x 2 block of patches, 144 knock-outs.
A criterion is trusted as far as its ranking is like the ranking by that log-prob drop (Spearman), and as far as the
answer is an exact match at its cuts.

    python -m benchmarks.causal                 # all 500 scenes: what is missing is measured, then the tables written
    python -m benchmarks.causal --scenes 60     # the first 60 scenes, in the order of their seeds
    python -m benchmarks.causal --table         # the tables of what was measured so far

    python -m benchmarks.causal --workers 2     # two scenes at a time, each in a process and on a thread of its own

Every scene is a line of benchmarks/results/causal.jsonl as soon as it is measured; a run that was broken off goes on.
The tables' single questions are shipped beside it, in causal.jsonl.gz; `python -m benchmarks.recompute --write` makes
README's sentences from them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import spearmanr

import flowcut
from benchmarks.causal_tables import ALL_SCENES, write_tables
from flowcut.criteria import METHODS
from flowcut.families.support import allowed_cuts
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.vision import Geometry
from flowcut.studies.one_shot import PatchChooser
from flowcut.studies.removal import block_of_patch
from flowcut.studies.scorer import AnswerScorer, score_cut_together, score_together
from flowcut_lens.analysis.causal import block_mean
from flowcut_lens.analysis.truth import patch_coverage
from flowcut_lens.scenes import Scene, about, derived_seed, draw, matches
from training.results import begun, pack

HERE = Path(__file__).parent
QUESTIONS = HERE.parent / "assets" / "questions.jsonl"
RESULTS = HERE / "results" / "causal.jsonl"
PACKED = RESULTS.with_name("causal.jsonl.gz")
"""What is shipped, and what benchmarks.recompute makes the tables from again."""
BLOCK = 2
RANKED_AT = 64
"""The budget at which a criterion ranks the patches, where that depends on it."""
BUDGETS = (192, 128, 64, 32, 16)
SEEDS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", type=int, default=ALL_SCENES, help="how many, from the first seed on (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop at the first scene after so long")
    parser.add_argument("--workers", type=int, default=1, help="processes that measure scenes (default 1)")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the tables of what is there")
    wanted = parser.parse_args()
    if not wanted.table:
        measure(wanted.scenes, wanted.minutes, wanted.workers)
    facts, *lines = (json.loads(line) for line in RESULTS.read_text().splitlines())
    found = [with_truth(line) for line in lines]
    pack(PACKED, facts, found)
    print(write_tables(facts, found, HERE))


def with_truth(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the results, each question with the share of each block's pixels that shows what it asks about."""
    scene = draw(line["seed"])
    questions = [{**question, "object": _object_in_blocks(scene, question)} for question in line["questions"]]
    return {**line, "questions": questions}


def _object_in_blocks(scene: Scene, question: dict[str, Any]) -> list[float] | None:
    asked = about(scene, question["question"])
    if not asked:
        return None
    side = round(len(question["fall"]) ** 0.5)
    pixels = scene.object_mask(asked)
    size = len(pixels)
    blocks = Geometry(size, size, size, size, 0, 0, size, size, size // side, side, side)
    shares: list[float] = patch_coverage(pixels, blocks).tolist()
    return shares


def measure(n_scenes: int, minutes: float, workers: int) -> None:
    """Append to the results every scene, of the first so many, that is not there yet."""
    done = begun(RESULTS, _facts(_model()), "seed")
    missing = [scene for scene in islice(_scenes(), n_scenes) if scene[0] not in done]
    started = time.perf_counter()
    with torch.multiprocessing.get_context("spawn").Pool(workers, _prepare_worker) as pool:
        for found in pool.imap(_measure_in_worker, missing):  # in the order of the seeds, also when it is broken off
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"seed {found['seed']}: {time.perf_counter() - started:.0f} s since the start", flush=True)
            if time.perf_counter() - started > 60 * minutes:
                break


def _prepare_worker() -> None:
    """One thread a worker: two on a core wait for each other at every layer."""
    torch.set_num_threads(1)


def _measure_in_worker(scene: tuple[int, list[dict[str, Any]]]) -> dict[str, Any]:
    model = _model()
    return measure_scene(model, *scene, all_cuts(model, scene[0]))


@cache
def _model() -> VisionLanguageModel:
    """The embedded model, loaded once in every process."""
    return flowcut.load("embedded")


def all_cuts(model: VisionLanguageModel, scene_seed: int) -> dict[str, list[flowcut.CutConfig]]:
    """By name, what stands for a criterion: itself, or the random draw with several seeds, anew for every scene.

    At the ranking's budget.
    """
    cuts: dict[str, list[flowcut.CutConfig]] = {}
    for cut in allowed_cuts(model, RANKED_AT, [derived_seed(scene_seed, seed) for seed in SEEDS]):
        cuts.setdefault(cut.method, []).append(cut)
    return cuts


def measure_scene(
    model: VisionLanguageModel, seed: int, questions: list[dict[str, Any]], cuts: dict[str, list[flowcut.CutConfig]]
) -> dict[str, Any]:
    """One line of the results: a scene and all that was found for each of its questions."""
    image = draw(seed).image
    runs = [flowcut.ask(model, image, question["question"], record=False) for question in questions]
    answers = [run.token_ids for run in runs]
    first = AnswerScorer(model, image, questions[0]["question"], answers[0])
    pairs = zip(questions[1:], answers[1:], strict=True)
    scorers = [first, *(first.also(question["question"], answer) for question, answer in pairs)]
    blocks = block_of_patch(first.n_patches // first.grid_cols, first.grid_cols, BLOCK)
    ids = np.arange(first.n_patches)
    sets = [ids, ids[:0], *(ids[blocks != block] for block in range(blocks.max() + 1))]
    logprob_drops = [_logprob_drops(scores.total) for scores in score_together(scorers, sets)]
    chooser = PatchChooser(first)
    everything = [replace(cut, tokens=tokens) for seeds in cuts.values() for cut in seeds for tokens in BUDGETS]
    scores = _score(scorers, chooser, everything)
    ranks = {cut: _block_ranks(chooser, cut, scores[cut], blocks) for cut in ranked(cuts)}
    rows = [
        {
            **question,
            "given": runs[place].answer,
            "right": matches(runs[place].answer, question["answer"]),
            "answer_tokens": len(answers[place]),
            **logprob_drops[place],
            "spearman": _agreements(
                {cut: of_questions[place] for cut, of_questions in ranks.items()}, logprob_drops[place]
            ),
            "kept": {name: _by_budget(seeds, scores, place) for name, seeds in cuts.items()},
        }
        for place, question in enumerate(questions)
    ]
    return {"seed": seed, "questions": rows}


def ranked(cuts: dict[str, list[flowcut.CutConfig]]) -> list[flowcut.CutConfig]:
    """All that rank the patches and do not only choose."""
    return [cut for name, seeds in cuts.items() if METHODS[name].ranks for cut in seeds]


def _logprob_drops(totals: np.ndarray) -> dict[str, Any]:
    full, no_image = totals[:2].tolist()
    return {"whole": full, "nothing": no_image, "fall": np.round(full - totals[2:], 7).tolist()}


def _score(
    scorers: list[AnswerScorer], chooser: PatchChooser, cuts: list[flowcut.CutConfig]
) -> dict[flowcut.CutConfig, list[flowcut.AnswerScores]]:
    """By cut, the scores (K = 1) of each question's answer; methods that choose among the same patches at once."""
    at_once = [cut for cut in cuts if chooser.knows(cut)]
    together = score_together(scorers, [chooser.kept(cut) for cut in at_once])
    found = {
        cut: [flowcut.AnswerScores(one.logprobs[[place]], one.exact_match[[place]]) for one in together]
        for place, cut in enumerate(at_once)
    }
    return {**found, **{cut: score_cut_together(scorers, cut) for cut in cuts if cut not in found}}


def _block_ranks(
    chooser: PatchChooser, cut: flowcut.CutConfig, scores: list[flowcut.AnswerScores], blocks: np.ndarray
) -> list[np.ndarray]:
    """By question, the blocks' mean ranks; what does not look at the question ranks the same for all."""
    if chooser.knows(cut):
        ranking = chooser.ranking(cut)
        assert ranking is not None
        return [block_mean(ranking, blocks)] * len(scores)
    rankings = [one.ranking for one in scores]
    return [block_mean(ranking, blocks) for ranking in rankings if ranking is not None]


def _agreements(ranks: dict[flowcut.CutConfig, np.ndarray], logprob_drops: dict[str, Any]) -> dict[str, float]:
    """By criterion, Spearman between its ranks of the blocks and their log-prob drops; of several seeds the mean."""
    found: dict[str, list[float]] = {}
    for cut, own in ranks.items():
        found.setdefault(cut.method, []).append(float(spearmanr(own, logprob_drops["fall"]).statistic))
    return {name: round(float(np.mean(values)), 6) for name, values in found.items()}


def _by_budget(cuts: list[flowcut.CutConfig], scores: dict[flowcut.CutConfig, Any], question: int) -> dict[str, Any]:
    """Per budget [[exact match, ln p] of each seed]."""
    found: dict[str, Any] = {}
    for tokens in BUDGETS:
        own = [scores[replace(cut, tokens=tokens)][question] for cut in cuts]
        found[str(tokens)] = [[int(one.exact_match[0]), round(float(one.total[0]), 6)] for one in own]
    return found


def _scenes() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Every held-out scene with its questions, in the order of their seeds."""
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    for seed, questions in groupby(sorted(rows, key=lambda row: row["seed"]), key=lambda row: row["seed"]):
        yield seed, [{name: value for name, value in row.items() if name != "seed"} for row in questions]


def _facts(model: VisionLanguageModel) -> dict[str, Any]:
    """What every line of the results was measured with."""
    return {
        "model": model.id,
        "revision": model.revision,
        "dtype": model.dtype,
        "device": model.device,
        "decoder_layers": int(model.model.config.text_config.num_hidden_layers),
        "block": BLOCK,
        "ranked_at": RANKED_AT,
        "budgets": list(BUDGETS),
        "seeds": len(SEEDS),
        "drawn": "anew for every scene and seed",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    main()
