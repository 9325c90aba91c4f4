"""The held-out questions: 500 scenes that training never saw, four questions each, all kinds equally often.

python -m training.heldout            # writes assets/questions.jsonl, always the same file
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flowcut_lens import scenes
from training.text import as_people_type

FIRST_SEED = {"test": 500_000, "validation": 400_000}
"""Training seeds start at a thousand million (training.cache); choices are made on the validation scenes alone."""

N_SCENES = 500
"""Of each part."""


def held_out(first_seed: int, n_scenes: int = N_SCENES, per_scene: int = 4) -> list[dict[str, Any]]:
    """Rows of scene seed, question, answer and type. A third of the questions is typed as people type."""
    rng, asked, rows = np.random.default_rng(first_seed), Counter[str](), []
    for seed in range(first_seed, first_seed + n_scenes):
        scene = scenes.draw(seed)
        possible = [kind for kind in scenes.KINDS if scenes.sample(scene.objects, kind, rng) is not None]
        rarest = sorted(possible, key=lambda kind: (asked[kind], rng.random()))[:per_scene]
        for kind in rarest:
            question = scenes.sample(scene.objects, kind, rng)
            assert question is not None, "the kind was possible a moment ago"
            text = as_people_type(question.text, rng) if rng.random() < 1 / 3 else question.text
            rows.append({"seed": seed, "question": text, "answer": question.answer, "type": kind})
            asked[kind] += 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(FIRST_SEED), default="test")
    parser.add_argument("--out", type=Path, default=Path("assets/questions.jsonl"))
    arguments = parser.parse_args()
    lines = [json.dumps(row) for row in held_out(FIRST_SEED[arguments.part])]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
