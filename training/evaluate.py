"""Ask the held-out questions: the whole model, every way to prune it at the same budgets, and what must be beaten.

Whole answers are compared. With teacher forcing an answer counts as right when each of its tokens is the most
likely one, which is when greedy decoding gives exactly it; so one packed pass answers all questions on a scene.
Descriptions that are not right word for word are decoded for real (stock `generate`) and marked by facts. `--check`
decodes every answer of the whole model as well and counts disagreements.

    python -m training.evaluate --workers 2       # benchmarks/results/heldout.jsonl.gz; then benchmarks.recompute
    python -m training.evaluate --questions training/runs/validation.jsonl --out training/runs/validation.jsonl.gz

A scene is a line of the file beside it (.jsonl) as soon as it is measured; a run that was broken off goes on. A line of
the packed file is one question answered in one way: `scene` and `question` (its number there), `type`, `method`,
`tokens` (the budget; null where the scene decides) and `seed`; `kept`, tokens that were read, `on_objects`, how many of
them show an object; `right`, 1 or 0; and for descriptions `facts`: right, stated, present.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.encoder.recording import record
from flowcut_lens import scenes
from training import results
from training.language import answer_logits
from training.packing import Packer, Segment, answer_loss

BUDGETS = (192, 128, 64, 32)
SEEDS = range(5)
MODEL = Path("assets/embedded")
QUESTIONS = Path("assets/questions.jsonl")
OUT = Path("benchmarks/results/heldout.jsonl.gz")
ON_OBJECT = 0.1
"""Share of a patch's pixels from which on it is said to show an object."""

Asked = list[dict[str, Any]]
"""The questions on one scene: question, answer, type."""


@dataclass(frozen=True)
class Way:
    """One way to choose the visual tokens that the language model reads."""

    method: str
    tokens: int | None = None
    """The budget; None: the scene decides."""
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What the language model reads in one way."""

    way: Way
    tokens: Tensor
    """[1, T, D] at the feature layer."""
    ids: np.ndarray
    """int64 [T], their patches."""


FLOORS = (
    Way("no picture"),
    Way("background patches"),
    *(Way("one patch per object", seed=seed) for seed in SEEDS),
    Way("object patches"),
)
"""What is right without looking, from what shows no object, and from the objects alone."""


def ways() -> list[Way]:
    """All that are compared, the whole picture first."""
    found = [Way("full", 576)]
    for tokens in BUDGETS:
        found += [Way(name, tokens) for name in ("flowcut official", "flowcut paper", "cls-attention", "stride")]
        found += [Way("random", tokens, seed) for seed in SEEDS]
    return [*found, *FLOORS]


class Examiner:
    """The model under test."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.packer = Packer(self.processor.tokenizer, 0)
        self.tower = self.model.model.vision_tower

    @torch.no_grad()
    def examine(self, seed: int, asked: Asked, wanted: list[Way]) -> dict[str, Any]:
        """A scene's line: one row for each question and way."""
        scene = scenes.draw(seed)
        seen = list(self.kept(scene, wanted))
        right = self.answer(seen, asked)
        facts = {
            number: self.count_facts(seen, question, right[:, number])
            for number, question in enumerate(asked)
            if question["type"] == "describe"
        }
        shows = scene.object_patches(coverage=ON_OBJECT)
        rows = [
            {
                "scene": seed,
                "question": number,
                "type": question["type"],
                **asdict(one.way),
                "kept": len(one.ids),
                "on_objects": int(shows[one.ids].sum()),
                "right": int(right[place, number]),
                **({"facts": facts[number][place]} if number in facts else {}),
            }
            for number, question in enumerate(asked)
            for place, one in enumerate(seen)
        ]
        return {"scene": seed, "rows": rows}

    def kept(self, scene: scenes.Scene, wanted: list[Way]) -> Iterator[Seen]:
        """For each way what is read. Ways that choose among the whole picture's tokens share one run of the encoder."""
        pixels = self.processor.image_processor(images=scene.image, return_tensors="pt")["pixel_values"]
        looks = any(way.method == "cls-attention" for way in wanted)  # recording costs; only this way needs it
        with record(self.tower) if looks else nullcontext() as recording:
            whole = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        attention = None
        if recording is not None:
            layer = recording.record.layers[recording.record.feature_layer]
            attention = layer.cls_row.mean(axis=1, dtype=np.float64)[:, 1:]
        evidence = Evidence(1, whole.shape[1], attention)
        for way in wanted:
            if way.method.startswith("flowcut"):
                yield self._cut_inside(pixels, way)
            else:
                ids = chosen_patches(scene, way, evidence)
                yield Seen(way, whole[:, torch.from_numpy(ids)], ids)

    def _cut_inside(self, pixels: Tensor, way: Way) -> Seen:
        assert way.tokens is not None
        cut = flowcut.FlowCut(tokens=way.tokens, variant=way.method.split()[1])
        with record(self.tower, cut=cut, flows=False) as cutting:
            out = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        return Seen(way, out, cutting.record.kept_patch_ids[0])

    def answer(self, seen: list[Seen], asked: Asked) -> np.ndarray:
        """bool [ways, questions], which are answered exactly right; ways of as many tokens in one pass."""
        segments = [self._segment(row) for row in asked]
        right = np.zeros((len(seen), len(asked)), bool)
        for places, tokens in _of_one_size(seen):
            packed = self.packer.pack_segments([segments] * len(places), tokens.shape[1])
            image = self.model.model.multi_modal_projector(tokens)
            logits = answer_logits(self.model.model.language_model, self.model.lm_head, packed, image)
            right[places] = np.reshape(answer_loss(logits, packed).by_segment, (len(places), len(asked)))
        return right

    def _segment(self, row: dict[str, Any]) -> Segment:
        return self.packer.segment(row["question"], row["answer"], row["type"])

    def decode(self, tokens: Tensor, question: str) -> list[str]:
        """The answers that stock `generate` gives to one question when it reads each of these tokens [ways, T, D]."""
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        prompt = prompt.replace("<image>", "<image>" * tokens.shape[1])
        inputs = self.processor.tokenizer([prompt] * len(tokens), return_tensors="pt")
        projected: Any = list(self.model.model.multi_modal_projector(tokens))  # a list, as get_image_features gives
        picture = {"image": BaseModelOutputWithPooling(pooler_output=projected)} if tokens.shape[1] else None
        ids = self.model.generate(**inputs, mm_encoder_outputs=picture, max_new_tokens=160, do_sample=False)
        answers = ids[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def count_facts(self, seen: list[Seen], question: dict[str, Any], right: np.ndarray) -> list[tuple[int, int, int]]:
        """For each way the facts of a description that are right, that it states, and that are there to be stated.

        What is right word for word need not be decoded again.
        """
        answers = [question["answer"]] * len(seen)
        wrong = [place for place in range(len(seen)) if not right[place]]
        for places, tokens in _of_one_size([seen[place] for place in wrong]):
            for place, text in zip(places, self.decode(tokens, question["question"]), strict=True):
                answers[wrong[place]] = text
        present = scenes.facts(question["answer"])
        stated = [scenes.facts(answer) for answer in answers]
        return [((one & present).total(), one.total(), present.total()) for one in stated]

    @torch.no_grad()
    def disagreements(self, seed: int, asked: Asked) -> int:
        """On how many of a scene's questions real decoding and the packed pass come to different verdicts."""
        seen = list(self.kept(scenes.draw(seed), [Way("full", 576)]))
        decoded = [scenes.matches(self.decode(seen[0].tokens, one["question"])[0], one["answer"]) for one in asked]
        return int((self.answer(seen, asked)[0] != decoded).sum())


def _of_one_size(seen: list[Seen]) -> Iterator[tuple[list[int], Tensor]]:
    """The places, and tokens [ways, T, D], of the ways that read as many tokens."""
    for count in sorted({len(one.ids) for one in seen}):
        places = [place for place, one in enumerate(seen) if len(one.ids) == count]
        yield places, torch.cat([seen[place].tokens for place in places])


def chosen_patches(scene: scenes.Scene, way: Way, evidence: Evidence) -> np.ndarray:
    """int64 [T] ascending: patches of a way that takes the whole picture's tokens as the unpruned encoder made them.

    What is drawn at random is drawn anew for each scene and seed.
    """
    shows = scene.object_patches()
    by_truth = {
        "full": np.ones_like(shows),
        "no picture": np.zeros_like(shows),
        "background patches": ~shows,
        "object patches": shows,
    }
    if way.method in by_truth:
        return np.flatnonzero(by_truth[way.method])
    seed = None if way.seed is None else scenes.derived_seed(scene.seed, way.seed)
    if way.method == "one patch per object":
        return _one_each(scene, np.random.default_rng(seed))
    assert way.tokens is not None
    select = METHODS[way.method].select
    assert select is not None
    kept: np.ndarray = select(evidence, flowcut.Cut(way.method, tokens=way.tokens, seed=seed))[0]
    return kept


def _one_each(scene: scenes.Scene, stream: np.random.Generator) -> np.ndarray:
    """A patch drawn for each object among those of which a tenth shows it; two objects may draw the same."""
    found = []
    for index in range(len(scene.objects)):
        well, at_all = (np.flatnonzero(scene.object_patches(14, least, [index])) for least in (ON_OBJECT, 0.0))
        found.append(stream.choice(well if well.size else at_all))
    return np.unique(found)


_examiner: Examiner | None = None
"""A process's own."""


def _prepare(folder: Path) -> None:
    global _examiner
    _examiner = Examiner(folder)


def _examine(scene: tuple[int, Asked, list[Way]]) -> dict[str, Any]:
    assert _examiner is not None
    return _examiner.examine(*scene)


def by_scene(rows: Iterable[dict[str, Any]]) -> list[tuple[int, Asked]]:
    """Each scene's seed and its questions, in the order of the seeds."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    return [(seed, list(asked)) for seed, asked in groupby(ordered, key=lambda row: row["seed"])]


def facts_of(model: Path, questions: Iterable[dict[str, Any]], wanted: list[Way]) -> results.Facts:
    """What a file of results was measured with."""
    return {
        "weights": weights_hash(model),
        "questions": questions_hash(questions),
        "ways": len(wanted),
        "seeds": len(SEEDS),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} CPU",
    }


def weights_hash(folder: Path) -> str:
    """The start of the SHA-256 of a model's weights, as a record's revision has it."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def questions_hash(rows: Iterable[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:12]


def examine_all(
    model: Path, questions: Asked, wanted: list[Way], growing: Path, workers: int = 1, n_scenes: int | None = None
) -> tuple[results.Facts, list[results.Line]]:
    """What it was measured with, and a row for each question and way; the growing file keeps what is done.

    `n_scenes`: the first so many, in the order of their seeds, so that no result has a say in it; None: all.
    """
    facts = facts_of(model, questions, wanted)
    asked = [(seed, rows, wanted) for seed, rows in by_scene(questions)[:n_scenes]]
    lines = results.measure(growing, facts, asked, _examine, partial(_prepare, model), workers)
    return facts, [row for line in lines for row in line["rows"]]


def print_means(rows: list[results.Line]) -> None:
    """Exact answers by way, and of the whole model by type; the tables with intervals are benchmarks.recompute's."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[f"{row['method']} {row['tokens'] or ''}".strip()].append(row["right"])
        if row["method"] == "full":
            found[f"full, {row['type']}"].append(row["right"])
    for name, right in found.items():
        print(f"{name:24s} {np.mean(right):6.1%} of {len(right)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--scenes", type=int, default=None, help="only the first so many scenes")
    parser.add_argument("--only", default="", help="the whole model, and only methods whose name starts so")
    parser.add_argument("--check", action="store_true", help="only: decode every answer of the whole model, too")
    parser.add_argument("--out", type=Path, default=OUT, help="the packed results, .jsonl.gz; beside it the growing")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one thread")
    wanted = parser.parse_args()
    questions = [json.loads(line) for line in wanted.questions.read_text().splitlines()]
    if wanted.check:
        examiner, asked = Examiner(wanted.model), by_scene(questions)[: wanted.scenes]
        print(f"{sum(examiner.disagreements(*scene) for scene in asked)} disagreements")
        return
    chosen = [way for way in ways() if way.method.startswith(("full", wanted.only))]
    growing = wanted.out.with_suffix("")
    facts, found = examine_all(wanted.model, questions, chosen, growing, wanted.workers, wanted.scenes)
    results.pack(wanted.out, facts, found)
    if wanted.scenes is None:
        growing.unlink()  # all of it is packed: the next run, of another model perhaps, begins anew
    print_means(found)


if __name__ == "__main__":
    main()
