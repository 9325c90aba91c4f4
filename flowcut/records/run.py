"""Run: one question asked about one picture, with all that an answer's reader may want to know. No torch."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.criteria.positions import KEPT
from flowcut.cut import CutConfig, stored_cut
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.display import html_table, one_line
from flowcut.records.language import LanguageRecord
from flowcut.records.vision import FlowRecord

RunnerUp = tuple[int, str, float]
"""Token id, its text, its log-probability."""


@dataclass(frozen=True)
class AnswerToken:
    """One token of the answer, in the order of generation; log-probabilities come from the raw logits."""

    id: int
    text: str
    """What this token added to the answer; empty for a token that is not shown (end of sequence)."""
    logprob: float
    """ln p of the token under the model, before temperature and top-p."""
    runners_up: tuple[RunnerUp, ...]
    """The five most probable other tokens, most probable first."""

    __repr__ = one_line


STAGES = ("preprocess", "vision", "scoring", "projector", "prefill", "decode")
"""What an answer takes its time for, in order."""


@dataclass(frozen=True)
class Times:
    """Seconds spent in each stage; none includes another."""

    preprocess: float
    vision: float
    """The vision encoder's own work."""
    scoring: float
    """Scores and selection inside the encoder: what the cut itself costs."""
    projector: float
    prefill: float
    """Up to the first answer token."""
    decode: float
    """The remaining answer tokens."""
    recording: float = 0.0
    """Recording the flow inside the encoder: its cost, with or without a cut."""
    unassigned: float | None = None
    """Wall time of the call that belongs to no stage: hooks put on and taken off, the prompt's bookkeeping, records put
    together. Waiting for the model is not in it. None in runs kept before this was measured."""
    runs: int = 1
    """How many runs of the same question each of these numbers is the median of."""

    __repr__ = one_line

    @property
    def total(self) -> float:
        """Seconds from picture to last token, recording left out: nobody who only wants the answer pays for it."""
        return sum(self.stages().values())

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, in order: what `total` adds up."""
        return {stage: getattr(self, stage) for stage in STAGES}

    @classmethod
    def median(cls, times: Sequence[Times]) -> Times:
        """Each number's median over several runs of the same question; one that was not measured in all stays unknown.

        Raises:
            ValueError: there is no run.
        """
        if not times:
            raise ValueError("There are no times: give those of one run or more.")
        measured = {name: [getattr(one, name) for one in times] for name in (*STAGES, "recording", "unassigned")}
        medians: dict[str, Any] = {
            name: None if None in found else statistics.median(found) for name, found in measured.items()
        }
        return cls(**medians, runs=sum(one.runs for one in times))


@dataclass(frozen=True)
class Flops:
    """Floating-point operations (a multiply-add counts as two), from the token counts that each layer really saw."""

    vision: float
    projector: float
    prefill: float
    decode: float

    __repr__ = one_line

    @property
    def total(self) -> float:
        """All stages together."""
        return self.vision + self.projector + self.prefill + self.decode


@dataclass(frozen=True, eq=False)
class Run:
    """One answered question."""

    question: str
    prompt: str
    """The text handed to the processor, system prompt and image placeholder included."""
    answer: str
    tokens: tuple[AnswerToken, ...]
    cut: CutConfig | None
    times: Times
    visual_tokens: int
    """Visual tokens counted in the language model's input."""
    prompt_tokens: int
    """All tokens in the language model's input, visual ones included."""
    kv_bytes: tuple[int, ...]
    """Bytes of keys and values that each decoder layer held when the answer ended."""
    peak_memory_bytes: int | None
    """Peak memory while the question was answered: on CUDA what torch had allocated, on a CPU what the process had
    resident, weights included; None where the system does not count it (MPS; a CPU without Linux)."""
    flops: Flops
    image_hash: str
    """SHA-256 of the picture's size and RGB pixels."""
    image_size: tuple[int, int]
    """Width and height of the original picture, EXIF orientation applied."""
    model_id: str
    revision: str | None
    family: str
    dtype: str
    device: str
    generation: dict[str, Any]
    """max_new_tokens, do_sample, temperature, seed, system ..."""
    stopped: bool
    """Whether someone stopped the answer before its end."""
    record: FlowRecord | None
    created: str
    """UTC time, ISO 8601."""
    notes: tuple[str, ...] = ()
    """What was done to the picture or the question, one sentence each."""
    tower_tokens: int = 0
    """Patches that left the vision encoder, over all tiles; 0 in runs kept before this was counted."""
    separator_tokens: int = 0
    """Visual tokens that are no patch, such as newline tokens; they are counted in `visual_tokens`."""
    layer_tokens: tuple[int, ...] = ()
    """Tokens of the prompt that each decoder layer read, counted at its input; empty where the decoder did not run."""
    language_record: LanguageRecord | None = None
    """What the cut inside the language model did, for families and cuts that have one."""
    answer_attention: AnswerAttention | None = None
    """What each answer token attended to; only where it was requested."""
    final_patch_ids: np.ndarray | None = None
    """int64 [T], patches (of the record's first row) that the language model's last layer reads, ascending, wherever
    the cut was made. None: the method has a grid of its own (`downsample`), the decoder that cuts did not run, or the
    run was kept before this was."""
    ranking: np.ndarray | None = None
    """float32 [N], what the method ranked these patches by, the highest kept longest. FlowCut: by the layer after
    which they were pruned, then by running score. Methods that choose one by one: the first chosen is highest, and
    those never chosen tie at the lowest. None: nothing was cut, or the method ranks nothing (`stride`, `downsample`,
    `chosen`)."""
    positions: str | None = None
    """Of the tokens that stayed, in the language model: `kept`, those of the full prompt; `renumbered`, without gaps;
    None: nothing was cut."""

    def __repr__(self) -> str:
        return one_line(self, ("question", "answer", "cut", "visual_tokens", "tokens", "model_id"))

    def _repr_html_(self) -> str:
        """For notebooks: question, answer, tokens and times, beside the mask where the run holds its record."""
        record = self.record
        if record is None:
            return html_table(self._shown_facts())
        kept = self.final_patch_ids if record.batch == 1 else None
        return html_table(self._shown_facts(), record.shown_masks(kept))

    def _shown_facts(self) -> dict[str, str]:
        prompt = f"{self.visual_tokens} visual of {self.prompt_tokens} in the prompt"
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in self.times.stages().items())
        recording = f"; recording {self.times.recording:.2f} s, not counted" if self.times.recording else ""
        return {
            "Question": self.question,
            "Answer": f"{self.answer} (stopped)" if self.stopped else self.answer,
            "Cut": self.title if self.positions is None else f"{self.title}; positions {self.positions}",
            "Tokens": f"{prompt}; {len(self.tokens)} in the answer",
            "Times": f"{self.times.total:.2f} s ({stages}){recording}",
            "Model": f"{self.model_id}, {self.family}, {self.dtype}, {self.device}",
            "Notes": "\n".join(self.notes),
        }

    @property
    def title(self) -> str:
        """The method as a column's head names it: `FlowCut 64 (official)`, or `All tokens` without a cut."""
        return "All tokens" if self.cut is None else self.cut.title

    @property
    def token_ids(self) -> list[int]:
        """Of the answer."""
        return [token.id for token in self.tokens]

    @property
    def logprob(self) -> float:
        """Of the whole answer, in nats: the sum over its tokens."""
        return sum(token.logprob for token in self.tokens)

    @property
    def id(self) -> str:
        """16 hex digits of the content: the same question, picture, model, settings and answer give the same id."""
        settings = None if self.cut is None else self.cut.as_dict()
        content: list[Any] = [
            self.question,
            self.prompt,
            self.token_ids,
            settings,
            self.image_hash,
            self.image_size,
            self.model_id,
        ]
        content += [self.revision, self.dtype, self.generation, self.stopped, self.record is not None]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Everything but records and attention, as JSON can hold it; `Run.from_facts` reads it back."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in NESTED}
        return {
            **kept,
            "tokens": [asdict(token) for token in self.tokens],
            "times": asdict(self.times),
            "flops": asdict(self.flops),
            "cut": None if self.cut is None else self.cut.as_dict(),
            "final_patch_ids": None if self.final_patch_ids is None else self.final_patch_ids.tolist(),
            "ranking": None if self.ranking is None else self.ranking.tolist(),
        }

    @classmethod
    def from_facts(
        cls,
        facts: dict[str, Any],
        record: FlowRecord | None,
        language_record: LanguageRecord | None = None,
        answer_attention: AnswerAttention | None = None,
    ) -> Run:
        """The run that `facts()` described, with its records put back."""
        cut = stored_cut(facts["cut"])
        nested = {
            "tokens": tuple(_token(token) for token in facts["tokens"]),
            "times": Times(**facts["times"]),
            "flops": Flops(**facts["flops"]),
            "cut": cut,
            "positions": facts.get("positions", _positions_then(facts["family"], cut)),
            "kv_bytes": tuple(facts["kv_bytes"]),
            "image_size": tuple(facts["image_size"]),
            "notes": tuple(facts["notes"]),
            "layer_tokens": tuple(facts.get("layer_tokens", ())),
            "final_patch_ids": _array(facts.get("final_patch_ids"), np.int64),
            "ranking": _array(facts.get("ranking"), np.float32),
        }
        files = {"record": record, "language_record": language_record, "answer_attention": answer_attention}
        return cls(**{**facts, **nested, **files})


NESTED = {
    "tokens", "times", "flops", "cut", "record", "language_record", "answer_attention", "final_patch_ids", "ranking",
}  # fmt: skip


def _positions_then(family: str, cut: CutConfig | None) -> str | None:
    """What ran before runs said it: Qwen-VL kept positions, any other family did as the method's release."""
    if cut is None:
        return None
    return KEPT if family.startswith("Qwen") else METHODS[cut.method].positions


def _array(numbers: list[Any] | None, dtype: type) -> np.ndarray | None:
    return None if numbers is None else np.array(numbers, dtype=dtype)


def _token(facts: dict[str, Any]) -> AnswerToken:
    runners_up = tuple((int(i), str(text), float(logprob)) for i, text, logprob in facts["runners_up"])
    return AnswerToken(facts["id"], facts["text"], facts["logprob"], runners_up)
