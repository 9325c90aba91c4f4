"""Search drawn scenes for the ones worth showing: `python -m flowcut_lens.app.scripts.seeds > found.jsonl`.

Asks the embedded model every kind of question about each scene, with all tokens, with FlowCut and with random tokens,
and prints one JSON line for each question of which the three answers are not all alike, with how they came out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import flowcut
from flowcut.models.loading import VisionLanguageModel
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.media.truth import is_right
from flowcut_lens.scenes import draw, questions

OUTCOMES = {
    (True, True, False): "FlowCut keeps what random pruning loses",
    (True, False, False): "both pruned answers break",
    (True, False, True): "FlowCut breaks where random pruning does not",
    (False, True, False): "only the pruned answer is right",
    (False, False, True): "only the random answer is right",
    (False, True, True): "only the full picture misleads",
}
"""Whether the answer was right with all tokens, with FlowCut, with random tokens; and what that says."""


def main() -> None:
    """Search the seeds named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--count", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--tokens", type=int, default=64, help="budget (default 64)")
    arguments = parser.parse_args()
    model = flowcut.load(EMBEDDED)
    for seed in range(arguments.first, arguments.first + arguments.count):
        for line in outcomes(model, seed, arguments.tokens):
            print(json.dumps(line), flush=True)


def outcomes(model: VisionLanguageModel, seed: int, tokens: int) -> Iterator[dict[str, object]]:
    """The questions about one scene whose three answers are not all right or all wrong."""
    drawn = draw(seed)
    cuts = (None, flowcut.FlowCut(tokens=tokens), flowcut.Cut("random", tokens=tokens, seed=0))
    for question in questions(drawn, seed=seed):
        answers = [flowcut.ask(model, drawn.image, question.text, cut=cut, record=False).answer for cut in cuts]
        right = tuple(is_right(answer, question.answer) for answer in answers)
        if right in OUTCOMES:
            yield {
                "seed": seed,
                "question": question.text,
                "kind": question.kind,
                "truth": question.answer,
                "answers": answers,
                "outcome": OUTCOMES[right],
            }


if __name__ == "__main__":
    main()
