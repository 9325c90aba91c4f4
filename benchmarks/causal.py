"""What do answers need, and which criterion ranks that first? Over the held-out scenes, with the embedded model.

Three readings, all with the positions of the full prompt: what each 2 x 2 block of patches adds among random sets of 16
of the 144 blocks (the primary one, with its reliability; sets of mixed sizes as a second), what is lost without each
object, never painted or not given to the language model, and what is lost without each single block. Beside them each
answer under every criterion's cuts, with positions kept and renumbered.

    python -m benchmarks.causal                 # all 500 scenes: what is missing is measured, then the tables written
    python -m benchmarks.causal --scenes 60     # the first 60 scenes, in the order of their seeds
    python -m benchmarks.causal --table         # the tables of what was measured so far
    python -m benchmarks.causal --workers 2     # two scenes at a time, each in a process and on a thread of its own
    python -m benchmarks.causal --questions F   # other scenes: choices are made on the validation scenes alone, which
                                                # python -m training.heldout --part validation --out F writes

Every scene is a line of benchmarks/results/causal.jsonl as soon as it is measured; a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
import transformers

import flowcut
from benchmarks.causal_report import write_tables
from benchmarks.causal_scene import BLOCK, BUDGETS, FRESH, MIXED_SETS, RANKED_AT, SETS, Cuts, measure_scene
from benchmarks.causal_tables import ALL_SCENES
from flowcut.families.support import allowed_cuts
from flowcut.models.loading import VisionLanguageModel
from flowcut_lens.scenes import derived_seed
from training.results import begun

HERE = Path(__file__).parent
QUESTIONS = HERE.parent / "assets" / "questions.jsonl"
RESULTS = HERE / "results" / "causal.jsonl"
SEEDS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", type=int, default=ALL_SCENES, help="how many, from the first seed on (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop at the first scene after so long")
    parser.add_argument("--workers", type=int, default=1, help="processes that measure scenes (default 1)")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the tables of what is there")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="of other scenes: results go beside them")
    wanted = parser.parse_args()
    folder = HERE if wanted.questions == QUESTIONS else wanted.questions.parent
    results = RESULTS if wanted.questions == QUESTIONS else folder / f"{wanted.questions.stem}-{RESULTS.name}"
    if not wanted.table:
        scenes = list(islice(_scenes(wanted.questions), wanted.scenes))
        measure(scenes, results, wanted.minutes, wanted.workers)
    facts, *lines = [json.loads(line) for line in results.read_text().splitlines()]
    print(write_tables(facts, lines, folder))


def measure(scenes: list[tuple[int, list[dict[str, Any]]]], results: Path, minutes: float, workers: int) -> None:
    """Append to the results every one of these scenes that is not there yet."""
    done = begun(results, facts_of(_model()), "seed")
    missing = [scene for scene in scenes if scene[0] not in done]
    started = time.perf_counter()
    with torch.multiprocessing.get_context("spawn").Pool(workers, _prepare_worker) as pool:
        for found in pool.imap(_measure_in_worker, missing):  # in the order of the seeds, also when it is broken off
            with results.open("a") as file:
                file.write(json.dumps(found, separators=(",", ":")) + "\n")
            spent = sum(found["cpu"].values())
            print(f"seed {found['seed']}: {spent:.0f} CPU s; {time.perf_counter() - started:.0f} s so far", flush=True)
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


def all_cuts(model: VisionLanguageModel, scene_seed: int) -> Cuts:
    """By name, what stands for a criterion: itself, or the random draw with several seeds, anew for every scene.

    At the ranking's budget.
    """
    cuts: dict[str, list[flowcut.CutConfig]] = {}
    for cut in allowed_cuts(model, RANKED_AT, [derived_seed(scene_seed, seed) for seed in SEEDS]):
        cuts.setdefault(cut.method, []).append(cut)
    return cuts


def _scenes(file: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Every scene of a file of questions, in the order of their seeds."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for seed, questions in groupby(sorted(rows, key=lambda row: row["seed"]), key=lambda row: row["seed"]):
        yield seed, [{name: value for name, value in row.items() if name != "seed"} for row in questions]


def facts_of(model: VisionLanguageModel) -> dict[str, Any]:
    """What every line of the results was measured with."""
    return {
        "check": "subsets",
        "model": model.id,
        "revision": model.revision,
        "dtype": model.dtype,
        "device": model.device,
        "decoder_layers": int(model.model.config.text_config.num_hidden_layers),
        "block": BLOCK,
        "ranked_at": RANKED_AT,
        "sets": SETS,
        "mixed_sets": MIXED_SETS,
        "fresh": FRESH,
        "budgets": list(BUDGETS),
        "seeds": len(SEEDS),
        "drawn": "anew for every scene and seed",
        "set_apart": {name: ", ".join(seeds[0].set_apart) for name, seeds in all_cuts(model, 0).items()},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    main()
