"""Ask the held-out questions: the whole model, and every way to prune it at the same budgets.

Whole answers are compared. With teacher forcing an answer counts as right when each of its tokens is the most
likely one, which is when greedy decoding gives exactly it; so one packed pass answers all questions on a scene.
Descriptions are decoded for real (stock `generate`) and marked by facts. `--check` decodes everything and
counts disagreements.

    python -m training.evaluate --questions training/runs/validation.jsonl           # while choosing
    python -m training.evaluate --questions assets/questions.jsonl --table training/RESULTS.json   # once, at the end
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.encoder.recording import record
from flowcut_lens import scenes
from training.language import answer_logits
from training.packing import Packer, Segment, answer_loss

BUDGETS = (192, 128, 64, 32)
RANDOM_SEEDS = range(5)


@dataclass
class Row:
    """Results of one way to prune at one budget."""

    method: str
    tokens: int
    seed: int | None = None
    right: list[int] = field(default_factory=list)
    """1 or 0 per question, in the file's order."""
    stated: int = 0
    present: int = 0
    true: int = 0
    """Facts of descriptions: stated, present in the scenes, and right."""
    on_objects: list[float] = field(default_factory=list)
    """Per scene: share of the kept patches of which at least a tenth shows an object."""


def ways() -> list[Row]:
    rows = [Row("full", 576)]
    for tokens in BUDGETS:
        rows += [Row(name, tokens) for name in ("flowcut official", "flowcut paper", "cls-attention", "stride")]
        rows += [Row("random", tokens, seed) for seed in RANDOM_SEEDS]
    return rows


class Examiner:
    """The model under test and its questions."""

    def __init__(self, folder: Path, questions: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.packer = Packer(self.processor.tokenizer, 0)
        self.tower = self.model.model.vision_tower
        self.by_scene: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for line in questions.read_text().splitlines():
            row = json.loads(line)
            self.by_scene[row["seed"]].append(row)

    def kept(self, pixels: Tensor, rows: list[Row]) -> Iterator[tuple[Row, Tensor, np.ndarray]]:
        """For each way: the kept tokens at the feature layer [1, T, D] and their ids. One-shot ways share a run."""
        looks = any(row.method == "cls-attention" for row in rows)  # recording costs; only this way needs it
        with record(self.tower) if looks else nullcontext() as recording:
            whole = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        attention = None
        if recording is not None:
            layer = recording.record.layers[recording.record.feature_layer]
            attention = layer.cls_row.mean(axis=1, dtype=np.float64)[:, 1:]
        evidence = Evidence(1, whole.shape[1], attention)
        for row in rows:
            if row.method == "full":
                yield row, whole, np.arange(whole.shape[1])
            elif row.method.startswith("flowcut"):
                cut = flowcut.FlowCut(tokens=row.tokens, variant=row.method.split()[1])
                with record(self.tower, cut=cut, flows=False) as cutting:
                    out = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
                yield row, out, cutting.record.kept_patch_ids[0]
            else:
                select = METHODS[row.method].select
                assert select is not None
                cut = flowcut.Cut(row.method, tokens=row.tokens, seed=row.seed)
                ids = select(evidence, cut)[0]
                yield row, whole[:, torch.from_numpy(ids)], ids

    def answer(self, tokens: Tensor, asked: list[dict[str, Any]]) -> list[int]:
        """Which of the questions on one scene are answered exactly right."""
        segments = [self._segment(row) for row in asked]
        packed = self.packer.pack_segments([segments], tokens.shape[1])
        image = self.model.model.multi_modal_projector(tokens)
        logits = answer_logits(self.model.model.language_model, self.model.lm_head, packed, image)
        return [int(right) for right in answer_loss(logits, packed).by_segment]

    def _segment(self, row: dict[str, Any]) -> Segment:
        return self.packer.segment(row["question"], row["answer"], row["type"])

    def decode(self, tokens: Tensor, question: str) -> list[str]:
        """The answers that stock `generate` gives to one question when it reads each of these tokens [ways, T, D]."""
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        prompt = prompt.replace("<image>", "<image>" * tokens.shape[1])
        inputs = self.processor.tokenizer([prompt] * len(tokens), return_tensors="pt")
        projected: Any = list(self.model.model.multi_modal_projector(tokens))  # a list, as get_image_features gives
        features = BaseModelOutputWithPooling(pooler_output=projected)
        ids = self.model.generate(**inputs, mm_encoder_outputs={"image": features}, max_new_tokens=160, do_sample=False)
        answers = ids[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def mark_descriptions(self, seen: list[tuple[Row, Tensor]], question: str, right_answer: str) -> None:
        """Descriptions from every way to prune, those of one budget decoded together; facts counted in their rows."""
        for count in {tokens.shape[1] for _, tokens in seen}:
            alike = [(row, tokens) for row, tokens in seen if tokens.shape[1] == count]
            answers = self.decode(torch.cat([tokens for _, tokens in alike]), question)
            for (row, _), answer in zip(alike, answers, strict=True):
                stated, present = scenes.facts(answer), scenes.facts(right_answer)
                row.stated += stated.total()
                row.present += present.total()
                row.true += (stated & present).total()

    @torch.no_grad()
    def run(self, rows: list[Row], limit: int | None, check: bool) -> dict[str, Any]:
        kinds, disagreements, started = [], 0, time.time()
        for number, (seed, asked) in enumerate(list(self.by_scene.items())[:limit]):
            scene = scenes.draw(seed)
            pixels = self.processor.image_processor(images=scene.image, return_tensors="pt")["pixel_values"]
            shows = scene.object_patches(coverage=0.1)
            kinds += [question["type"] for question in asked]
            seen = []
            for row, tokens, ids in self.kept(pixels, rows):
                row.on_objects.append(float(shows[ids].mean()))
                row.right += self.answer(tokens, asked)
                seen.append((row, tokens))
            for question in asked:
                if question["type"] == "describe":
                    self.mark_descriptions(seen, question["question"], question["answer"])
            if check:
                disagreements += self.disagreements(*seen[0], asked)
            if number % 50 == 49:
                print(f"{number + 1} scenes, {time.time() - started:.0f} s", flush=True)
        return {
            "kinds": kinds,
            "questions": len(kinds),
            "disagreements": disagreements if check else None,
            "seconds": round(time.time() - started),
        }

    def disagreements(self, whole: Row, tokens: Tensor, asked: list[dict[str, Any]]) -> int:
        """On how many of a scene's questions real decoding and the packed pass come to different verdicts."""
        packed = whole.right[-len(asked) :]
        decoded = [scenes.matches(self.decode(tokens, one["question"])[0], one["answer"]) for one in asked]
        return sum(a != bool(b) for a, b in zip(decoded, packed, strict=True))


def interval(differences: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of a mean, questions drawn with replacement."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(resamples, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def summary(rows: list[Row], kinds: list[str]) -> list[dict[str, Any]]:
    """One line per way and budget; random is the mean of its seeds, question by question."""
    grouped: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.method, row.tokens].append(row)
    full = np.mean([row.right for row in grouped["full", 576]], axis=0)
    return [_line(name, tokens, group, full, np.array(kinds)) for (name, tokens), group in grouped.items()]


def _line(name: str, tokens: int, group: list[Row], full: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    right = np.mean([row.right for row in group], axis=0)
    true, stated, present = (sum(getattr(row, part) for row in group) for part in ("true", "stated", "present"))
    return {
        "method": name,
        "tokens": tokens,
        "seeds": len(group),
        "exact": float(right.mean()),
        "against_full": float((right - full).mean()),
        "against_full_95": interval(right - full),
        "by_type": {kind: float(right[kinds == kind].mean()) for kind in scenes.KINDS},
        "describe_right_of_stated": true / max(stated, 1),
        "describe_right_of_present": true / max(present, 1),
        "kept_on_objects": float(np.mean([row.on_objects for row in group])),
    }


def print_table(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        low, high = line["against_full_95"]
        facts = f"{line['describe_right_of_stated']:.3f}/{line['describe_right_of_present']:.3f}"
        print(
            f"{line['method']:17s} {line['tokens']:4d} exact {line['exact']:.3f} "
            f"against full {line['against_full']:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"facts {facts} on objects {line['kept_on_objects']:.2f}"
        )
    print(json.dumps(lines[0]["by_type"]))


def markdown(lines: list[dict[str, Any]], outcome: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The tables of RESULTS.md: the whole model by type, then every way to prune at every budget."""
    whole = lines[0]
    text = [
        "# What the embedded model can do, whole and pruned",
        "",
        f"{outcome['questions']} held-out questions ({arguments.questions}), greedy answers, whole answers compared.",
        f"Written by `python -m training.evaluate --questions {arguments.questions} --table {arguments.table}`.",
        "",
        "## The whole model, 576 visual tokens",
        "",
        f"Exact answers: **{whole['exact']:.1%}**. Descriptions by facts: right / stated",
        f"**{whole['describe_right_of_stated']:.3f}**, right / present **{whole['describe_right_of_present']:.3f}**.",
        "",
        "| type | exact |",
        "|-|-|",
        *(f"| {kind} | {share:.1%} |" for kind, share in whole["by_type"].items()),
        "",
        "## Pruned",
        "",
        "Difference to the whole model in points, with a 95% bootstrap interval paired by question. Random: mean of",
        f"{len(RANDOM_SEEDS)} seeds. *On objects*: share of kept patches of which at least a tenth shows an object.",
        "One-shot ways cut at the feature layer; CLS attention is taken there.",
        "",
        "| method | tokens | exact | against whole, points | facts right / stated, right / present | on objects |",
        "|-|-|-|-|-|-|",
    ]
    for line in lines:
        low, high = (100 * bound for bound in line["against_full_95"])
        text.append(
            f"| {line['method']} | {line['tokens']} | {line['exact']:.1%} | "
            f"{100 * line['against_full']:+.1f} [{low:+.1f}, {high:+.1f}] | "
            f"{line['describe_right_of_stated']:.3f}, {line['describe_right_of_present']:.3f} | "
            f"{line['kept_on_objects']:.0%} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("assets/embedded"))
    parser.add_argument("--questions", type=Path, default=Path("assets/questions.jsonl"))
    parser.add_argument("--scenes", type=int, default=None, help="only the first so many scenes")
    parser.add_argument("--only", default=None, help="only methods whose name starts so")
    parser.add_argument("--check", action="store_true", help="decode every answer of the whole model as well")
    parser.add_argument("--table", type=Path, default=None, help="write the results here as JSON")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for row in ways() if arguments.only is None or row.method.startswith(("full", arguments.only))]
    if arguments.only == "full":
        rows = rows[:1]
    outcome = Examiner(arguments.model, arguments.questions).run(rows, arguments.scenes, arguments.check)
    lines = summary(rows, outcome.pop("kinds"))
    print_table(lines)
    print(json.dumps(outcome))
    if arguments.table:
        arguments.table.with_suffix(".json").write_text(json.dumps({"lines": lines, **outcome}, indent=1) + "\n")
        arguments.table.write_text(markdown(lines, outcome, arguments))


if __name__ == "__main__":
    main()
