"""ask(model, image, question, cut=...) -> Run: the one way in, for the app, the command line and notebooks alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

import torch
from torch import nn
from transformers import BatchFeature

from flowcut.cut import CutConfig, check_is_cut
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.families.family import EncodedMedium, is_visual
from flowcut.families.support import check_budget
from flowcut.generation.flops import UNCOUNTED, ModelParts, TokenCounts, count_flops
from flowcut.generation.medium import Medium, geometries, open_medium
from flowcut.generation.observer import Listener
from flowcut.generation.own_settings import overruled, own_options
from flowcut.generation.prompt import put_question
from flowcut.generation.session import Session
from flowcut.hooks.model_facts import synchronise
from flowcut.media.picture import Picture
from flowcut.media.source import plain
from flowcut.media.video import is_video
from flowcut.models.loading import VisionLanguageModel
from flowcut.models.memory import reset_peak, resident_peak
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.run import Flops, Run, Times
from flowcut.records.unread import NO_PLACES
from flowcut.records.vision import PADDING_ID, FlowRecord
from flowcut.settings import Generation, GenerationOptions

Stop = threading.Event | Callable[[], bool]
OnText = Callable[[str], Any]
OnProgress = Callable[[str, float], Any]
Result = TypeVar("Result")
_sampling_lock = threading.Lock()  # torch.multinomial draws from one generator for the whole process


@dataclass(frozen=True)
class _Callbacks:
    """Who hears of the answer while it is made, and who may stop it."""

    on_text: OnText | None
    report: OnProgress
    stop: Callable[[], bool]


@dataclass(frozen=True)
class _Recorded:
    """What is kept beside the answer."""

    flow: bool
    answer_attention: bool
    matrices: bool


def ask(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    cut: CutConfig | None = None,
    *,
    settings: Generation | None = None,
    on_text: OnText | None = None,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
    record: bool = True,
    answer_attention: bool = False,
    matrices: bool = False,
    frames: int | None = None,
    **generation: Unpack[GenerationOptions],
) -> Run:
    """Ask a question about a picture or a video; with `cut=None`, token for token what the stock `generate` answers.

    Args:
        model: from `flowcut.load`; runs on one model wait for each other.
        image: path, http(s) URL, bytes, PIL image, array, tensor or Picture (see `flowcut.open_picture`); or a video: a
            file, a sequence of pictures, an array with one axis more, or a Video (see `flowcut.open_video`).
        cut: which visual tokens to keep; None keeps all.
        settings: how to generate (see `flowcut.Generation`); None: greedy, at most 128 tokens.
        on_text: called with the answer so far after each token.
        on_progress: called with a stage (picture, vision, prefill, decode) and how much of it is done, 0 to 1.
        stop: an event, or a function that returns True; asked before the language model starts and after each token.
        record: False prunes only, and pays for nothing else; the run's record is then None.
        answer_attention: True also records what each answer token attended to (`Run.answer_attention` has its size).
        matrices: True also records each layer's head-mean attention matrix (CLIP-L at 336 px: 16 MB).
        frames: how many frames to take of a video file; None: as many as the model is used to.
        generation: single settings by their names (max_new_tokens, do_sample, temperature, top_p, system, seed); they
            outweigh those of `settings`.

    Raises:
        FlowCutError: (a ValueError) one sentence: picture, question, cut or settings cannot be used.
    """
    chosen = replace(settings or Generation(), **generation)
    image = plain(image, "picture")  # an address is fetched once
    _check_cut(model, cut, is_video(image))
    callbacks = _Callbacks(on_text, on_progress or (lambda stage, fraction: None), _stop_function(stop))
    work = _Work(model, cut, chosen, callbacks, _Recorded(record, answer_attention, matrices))
    picture, preprocess = _timed(lambda: open_medium(model, image, frames))
    with model.lock:
        return work.run(picture, question, preprocess)


class _Work:
    """One question on its way: what was asked for, and the model that answers."""

    def __init__(
        self,
        model: VisionLanguageModel,
        cut: CutConfig | None,
        settings: Generation,
        callbacks: _Callbacks,
        recorded: _Recorded,
    ) -> None:
        self.model = model
        self.cut = cut
        self.settings = settings
        self.report = callbacks.report
        self.stop = callbacks.stop
        self.recorded = recorded
        self.attended: AnswerRecording | None = None
        tokenizer, longest = model.processor.tokenizer, settings.max_new_tokens
        self.listener = Listener(tokenizer, longest, callbacks.on_text, callbacks.report, callbacks.stop)

    def run(self, picture: Medium, question: str, opening_seconds: float) -> Run:
        """All stages, in order; a run stopped before its first token has an empty answer."""
        hf_model, family, began = self.model.model, self.model.family, time.perf_counter()
        self.report("picture", 0.0)
        (prompt, inputs, notes), preparing_seconds = _timed(lambda: self._inputs(picture, question))
        watched = Session(hf_model, self.cut, self.recorded.flow, self.recorded.matrices)
        with watched as session, _peak_memory(hf_model.device) as peak:
            self.report("vision", 0.0)
            prepared, vision = self._see(session, inputs)
            prefill_hook = family.language_model(hf_model)
            listening_started = time.perf_counter()
            if not self.stop():
                self.report("prefill", 0.0)
                with self.listener.listening(hf_model, prefill_hook), self._recording_attention(session, prepared):
                    self._generate(prepared)
            synchronise(hf_model.device)
            ended = time.perf_counter()
        self._describe(session, picture, notes)
        assembling = _timed(lambda: session.record)[1]  # put together here, and kept for the result
        vision["recording"] += assembling if self.recorded.flow else 0.0
        wall = opening_seconds + time.perf_counter() - began
        times = self._times(opening_seconds + preparing_seconds, vision, listening_started, ended, wall)
        pairs = session.recording.attended_pairs
        return self._result(picture, question, prompt, notes, times, session, prepared, peak[0], pairs)

    def _inputs(self, picture: Medium, question: str) -> tuple[str, BatchFeature, tuple[str, ...]]:
        """The prompt, what the processor makes of it, and the notes on question and system prompt."""
        settings = self.settings
        asked = put_question(self.model, picture, question, settings.system, settings.max_new_tokens)
        self._check_budget(picture, asked.inputs["input_ids"])
        return asked.prompt, asked.inputs, (*asked.notes, *overruled(self.model.model.generation_config, settings))

    def _check_budget(self, picture: Medium, input_ids: torch.Tensor) -> None:
        """Where the number of a picture's tokens depends on its size, it is known only now."""
        found = int(is_visual(self.model.family, self.model.model, input_ids).sum())
        known_before = isinstance(picture, Picture) and not self.model.family.counts_by_picture
        if self.cut is not None and not known_before and self.cut.tokens > found:
            what = "picture" if isinstance(picture, Picture) else "video"
            raise InvalidCut(
                f"tokens is {self.cut.tokens}, and {self.model.id} sees this {what} as {found} tokens: "
                f"choose 1 to {found}."
            )

    def _see(self, session: Session, inputs: BatchFeature) -> tuple[BatchFeature, dict[str, float]]:
        """Encode the picture; seconds spent in the encoder itself, scoring, recording, and the projector."""
        device = self.model.model.device
        with _stopwatch(self.model.family.projector(self.model.model), device) as projector:
            synchronise(device)
            started = time.perf_counter()
            prepared = session.prepare(inputs)
            synchronise(device)
            whole = time.perf_counter() - started
        spent = {**session.recording.seconds, "projector": sum(projector)}
        return prepared, {"vision": whole - sum(spent.values()), **spent}

    def _recording_attention(self, session: Session, prepared: BatchFeature) -> AbstractContextManager[Any]:
        """Records what the answer's tokens attend to, where that was asked for."""
        if not self.recorded.answer_attention:
            return nullcontext()
        hf_model, family = self.model.model, self.model.family
        input_ids = prepared["input_ids"][0]
        visual_rows = is_visual(family, hf_model, input_ids).nonzero()[:, 0]
        self.attended = AnswerRecording(family.language_model(hf_model), visual_rows, len(input_ids), session.language)
        return self.attended

    def _attention_of(self, media: Sequence[EncodedMedium]) -> AnswerAttention | None:
        """What the answer's tokens attended to, and the source patches of the visual tokens."""
        if self.attended is None:
            return None
        source_patches, shares = (
            torch.cat([getattr(one, name).cpu() for one in media]) for name in ("source_patches", "shares")
        )
        return replace(self.attended.attention, source_patches=source_patches.numpy(), shares=shares.float().numpy())

    def _generate(self, prepared: BatchFeature) -> None:
        hf_model: Any = self.model.model
        own = own_options(hf_model.generation_config, self.settings, self.model.processor.tokenizer)
        options = {**own, **self.settings.for_generate(), "stopping_criteria": [self.listener]}
        if not self.settings.do_sample:
            hf_model.generate(**prepared, **options)
            return
        with _sampling_lock, _seeded(self.settings.seed, hf_model.device):
            hf_model.generate(**prepared, **options)

    def _describe(self, session: Session, picture: Medium, notes: tuple[str, ...]) -> None:
        model = self.model
        session.describe(
            model_id=model.id,
            revision=model.revision,
            geometries=geometries(model, picture),
            notes=(*picture.notes, *notes),
        )

    def _times(self, preprocess: float, vision: dict[str, float], started: float, ended: float, wall: float) -> Times:
        first = min(self.listener.first_token_at or ended, ended)
        attending = {"prefill": 0.0, "decode": 0.0} if self.attended is None else self.attended.seconds
        spent: dict[str, Any] = {**vision, "recording": vision["recording"] + sum(attending.values())}
        prefill, decode = first - started - attending["prefill"], ended - first - attending["decode"]
        times = Times(preprocess=preprocess, **spent, prefill=prefill, decode=decode)
        return replace(times, unassigned=max(0.0, wall - times.total - times.recording))

    def _result(
        self,
        picture: Medium,
        question: str,
        prompt: str,
        notes: tuple[str, ...],
        times: Times,
        session: Session,
        prepared: BatchFeature,
        peak: int | None,
        attended_pairs: tuple[int, ...],
    ) -> Run:
        model, listener = self.model, self.listener
        placeholders = is_visual(model.family, model.model, prepared["input_ids"])
        visual = listener.visual_tokens if listener.heard else int(placeholders.sum())
        prompt_tokens = listener.prompt_tokens if listener.heard else int(placeholders.numel())
        record = session.record
        layer_tokens = listener.layer_tokens or (prompt_tokens,) * model.model.config.text_config.num_hidden_layers
        return Run(
            question=question.encode("utf-8", "replace").decode("utf-8"),  # lone surrogates fit into no file
            prompt=prompt,
            answer=listener.answer,
            tokens=listener.tokens(),
            cut=self.cut,
            times=times,
            visual_tokens=visual,
            prompt_tokens=prompt_tokens,
            kv_bytes=listener.kv_bytes(),
            peak_memory_bytes=peak,
            flops=self._flops(session, visual, layer_tokens, attended_pairs),
            image_hash=picture.hash,
            image_size=picture.size,
            model_id=model.id,
            revision=model.revision,
            family=model.family.name,
            dtype=model.dtype,
            device=model.device,
            generation=self.settings.facts(),
            stopped=listener.stopped or not listener.heard,
            record=record if self.recorded.flow else None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=(*picture.notes, *notes, *session.recording.remarks, *_missing(record)),
            tower_tokens=_tower_tokens(session, record),
            separator_tokens=session.separator_tokens,
            layer_tokens=listener.layer_tokens,
            language_record=session.language_record if self.recorded.flow else None,
            answer_attention=self._attention_of(session.media) if listener.heard else None,
            final_patch_ids=session.final_patch_ids,
            ranking=session.ranking,
            positions=session.positions,
        )

    def _flops(
        self, session: Session, visual_tokens: int, layer_tokens: tuple[int, ...], attended_pairs: tuple[int, ...]
    ) -> Flops:
        hf_model, family, encoder = self.model.model, self.model.family, session.recording.encoder
        read = family.unread is None
        model = ModelParts(
            encoder.layers if read else [],
            encoder.patch_embedding if read else None,
            family.projector(hf_model),
            family.language_model(hf_model),
            hf_model.get_output_embeddings(),
            hf_model.config,
            encoder.early_mergers if read else {},
        )
        visual = [len(medium.features) for medium in session.media]
        ahead = []
        for tokens in layer_tokens:
            gone = (layer_tokens[0] - tokens) // max(len(visual), 1)  # a cut inside the decoder takes as many of each
            ahead.append(family.pairs_ahead(tokens, [count - gone for count in visual]))
        answer, unread = len(self.listener.tokens()), None if read else session.recording.operations
        counted = TokenCounts(visual_tokens, layer_tokens, answer, attended_pairs, ahead, unread)
        return count_flops(model, session.record, counted)


def _check_cut(model: VisionLanguageModel, cut: CutConfig | None, video: bool) -> None:
    if not isinstance(model, VisionLanguageModel):
        raise FlowCutError(f"model is a {type(model).__name__}: give what flowcut.load returned.")
    check_is_cut(cut)
    if cut is not None and not video:
        check_budget(model, cut.tokens)


def _missing(record: FlowRecord) -> tuple[str, ...]:
    """What a model whose vision encoder is not read leaves unsaid, one sentence each."""
    if record.unread is None:
        return ()
    where = () if record.geometries else (NO_PLACES,)
    return (record.unread, *where, UNCOUNTED)


def _stop_function(stop: Stop | None) -> Callable[[], bool]:
    if stop is None:
        return lambda: False
    return stop.is_set if isinstance(stop, threading.Event) else stop


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


@contextmanager
def _stopwatch(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Seconds of each call of a module while inside."""
    seconds: list[float] = []

    def start(*_: Any) -> None:
        synchronise(device)
        seconds.append(-time.perf_counter())

    def end(*_: Any) -> None:
        synchronise(device)
        seconds[-1] += time.perf_counter()

    with ExitStack() as undo:
        undo.callback(module.register_forward_pre_hook(start).remove)
        undo.callback(module.register_forward_hook(end).remove)
        yield seconds


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[int | None]]:
    """One entry, filled on leaving: the peak of bytes in use while inside, None where nobody counts them."""
    peak: list[int | None] = [None]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device)
    else:
        counted = device.type == "cpu" and reset_peak()
        yield peak
        peak[0] = resident_peak() if counted else None


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """torch's random state set to a seed while inside, and put back after; None leaves it alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _tower_tokens(session: Session, record: FlowRecord) -> int:
    """Tokens that went from the vision encoder to the projector: patches, or groups of them, and a CLS handed over."""
    if record.unread:
        return 0
    cls = session.separator_tokens if session.recording.plan.cls_goes_on else 0
    return int((record.kept_patch_ids != PADDING_ID).sum()) // record.patches_per_token + cls
