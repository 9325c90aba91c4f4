"""Pruning with a stock model and processor in hand: media encoded and cut first, then placeholders to match."""

from __future__ import annotations

import inspect
import math
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel

from flowcut.criteria import METHODS
from flowcut.criteria.positions import KEPT
from flowcut.criteria.stages import DECODER, PROJECTOR
from flowcut.cut import CutConfig, check_is_cut
from flowcut.decoder.recording import LanguageRecording
from flowcut.decoder.spans import Aim
from flowcut.errors import FlowCutError
from flowcut.families import family_of
from flowcut.families.family import EncodedMedium, MediaKind
from flowcut.families.support import check_allowed, check_medium, positions_under, stage_under
from flowcut.generation.aim import aim_at
from flowcut.generation.drop_tokens import check_placeholders, drop_tokens, filled_placeholders, text_positions
from flowcut.generation.outside_encoder import (
    Coarser,
    Seen,
    coarser,
    cut_media,
    in_the_decoder,
    in_the_encoder,
    leading_separators,
    other_stage,
    patches_of_first_row,
    ranking_of_first_row,
)
from flowcut.generation.prepared import IN_PIECES, NOT_PREPARED, Handover, PreparedFeatures, handover_of, is_piece
from flowcut.generation.towers import patch_size, watched_tower
from flowcut.hooks.attention import joined
from flowcut.hooks.model_facts import synchronise
from flowcut.hooks.usable import check_is_model, check_usable
from flowcut.records.language import LanguageRecord
from flowcut.records.vision import FlowRecord

_is_preparing: ContextVar[bool] = ContextVar("flowcut_preparing", default=False)


def prune(hf_model: PreTrainedModel, cut: CutConfig | None = None, *, record: bool = True) -> Session:
    """Prune the pictures or videos of a stock model, for the length of a `with`; `generate` stays the stock one.

    ```python
    with flowcut.prune(hf_model, cut=flowcut.FlowCut(tokens=64)) as session:
        inputs = session.prepare(processor(images=image, text=prompt, return_tensors="pt"))
        ids = hf_model.generate(**inputs)
    session.record
    ```

    Args:
        hf_model: a model of one of the families in `flowcut/families`, such as `LlavaForConditionalGeneration` or
            `LlavaNextForConditionalGeneration` with a CLIP tower, or `Qwen2_5_VLForConditionalGeneration`.
        cut: which patches to keep; None records only.
        record: False prunes only, and pays for nothing else.

    Raises:
        FlowCutError: (a ValueError) the model is of a family that is not supported, or the cut cannot be done.
    """
    check_is_model(hf_model)
    check_is_cut(cut)
    return Session(hf_model, cut, record)


class Session:
    """A `with` in which pictures or videos handed to `prepare` are encoded, recorded and pruned.

    What was prepared is read with its cut, whatever thread the model runs in, such as a streamer's. Under a cut,
    pictures that were not prepared are refused in every thread, since they would be read whole: a stock pipeline hands
    over such.
    """

    def __init__(self, hf_model: PreTrainedModel, cut: CutConfig | None, record: bool, matrices: bool = False) -> None:
        check_usable(hf_model)
        self.model = hf_model
        self.cut = cut
        self.family = family_of(hf_model.config)
        check_allowed(cut, hf_model, self.family)
        self.stage = stage_under(cut, self.family)
        """Where the cut is made; None: nothing is cut."""
        self.encoder_cut = None if self.family.unread else in_the_encoder(cut)
        self.positions = None if cut is None else positions_under(cut, self.family)  # of the tokens that stay
        self.remarks: tuple[str, ...] = ()
        """What a reader must know of a cut outside the encoder, of what was prepared last."""
        self.grid: Coarser | None = None
        """The coarser grid that the last pictures were scaled down to, if they were."""
        self._projected_ranking: np.ndarray | None = None
        facts = {"model_id": hf_model.name_or_path or None, "family": self.family.name, "notes": self._notes()}
        of_encoder = {**facts, "differs_from_release": self.family.differs(hf_model, cut)}
        towers = {kind.name: self.family.vision_tower(hf_model, kind) for kind in self.family.media}
        watch = partial(watched_tower, hf_model, self.family, self.encoder_cut, flows=record, matrices=matrices)
        of_tower = {
            tower: watch(tower, facts=dict(of_encoder), seen_by=cut) for tower in dict.fromkeys(towers.values())
        }
        self.recordings = {name: of_tower[tower] for name, tower in towers.items()}
        """By kind of media: kinds that share a tower share its recording."""
        self.recording = next(iter(self.recordings.values()))
        """Of the tower that the last `prepare` used."""
        self.language: LanguageRecording | None = None
        """The cut inside the language model, for families and methods that have one."""
        inside, layer_of_flowcut = in_the_decoder(cut, self.family.flowcut_layer(hf_model, cut))
        if inside is not None:
            decoder, facts = self.family.language_model(hf_model), {**facts, "notes": self._notes("second")}
            self.language = LanguageRecording.of(decoder, inside, layer_of_flowcut, facts=facts)
        for part in (*self.recordings.values(), self.language):
            if part is not None:
                part.elsewhere.matters = False  # what is prepared here is cut in every thread
        self.media: list[EncodedMedium] = []
        """What the last `prepare` made of each picture or video, in the order of the prompts."""
        self._aim: Aim | None = None
        """Where their tokens are, for a cut inside the language model."""
        self._signature = inspect.signature(hf_model.forward)
        self._turn = threading.RLock()
        """Held while media are encoded, and for each pass in another thread than the one that entered."""
        self._reading = threading.local()
        """Of each thread what ends its pass."""
        self._undo = ExitStack()

    def __enter__(self) -> Session:
        with ExitStack() as undo:
            for recording in dict.fromkeys(self.recordings.values()):
                undo.enter_context(recording)
                guard = recording.encoder.model.register_forward_pre_hook(self._at_the_tower, prepend=True)
                undo.callback(guard.remove)
            if self.language is not None:
                undo.enter_context(self.language)
            opening = self.model.register_forward_pre_hook(self._at_the_model, with_kwargs=True)
            undo.callback(opening.remove)
            closing = self.model.register_forward_hook(self._after_the_model, always_call=True)
            undo.callback(closing.remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:  # a pass in another thread comes to its end first
            self._undo.__exit__(kind, error, trace)

    @property
    def in_force(self) -> bool:
        """Whether the `with` was entered and not yet left."""
        return bool(self.recording.in_force)

    @property
    def record(self) -> FlowRecord:
        """What the last `prepare` showed; all pictures, tiles or frames are its batch, in the order of the prompt."""
        record: FlowRecord = self.recording.record
        return record

    @property
    def language_record(self) -> LanguageRecord | None:
        """What the last prompt showed inside the language model; None where nothing is cut there, or nothing ran."""
        return self.language.record if self.language is not None and self.language.recorded else None

    def _told(self) -> LanguageRecord | None:
        """The record of the language model, if it is of what was prepared last."""
        of_last = self.language is not None and self.language.drafted is self._aim
        return self.language_record if of_last else None

    @property
    def separator_tokens(self) -> int:
        """Visual tokens of the last prompt that are no patch, such as newline tokens."""
        return sum(medium.separators for medium in self.media)

    @property
    def final_patch_ids(self) -> np.ndarray | None:
        """int64 [T], as `Run.final_patch_ids` says, of what was prepared last."""
        if self.grid is not None:
            return None
        stays = None
        if self.language is not None and self._aim is not None and self.media:
            if self._told() is None:
                return None
            lead = leading_separators(self.media[0])
            stays = np.arange(len(self.media[0].features)) < lead
            stays[lead + self.language.record.kept(0)] = True
        return patches_of_first_row(self.recording.record.kept_patch_ids, self.media, stays)

    @property
    def ranking(self) -> np.ndarray | None:
        """float32 [N], as `Run.ranking` says, of what was prepared last."""
        cut = self.cut
        if self.grid is not None or (cut is not None and cut.then is None and not METHODS[cut.method].ranks):
            return None
        n_patches, told = math.prod(self.recording.grid), self._told()
        in_encoder = self.recording.ranking if self._projected_ranking is None else self._projected_ranking
        if told is None or told.ranking is None or told.sources is None:
            return ranking_of_first_row(in_encoder, None, np.empty((0, 1, 2)), 0)
        n_tokens = told.spans[0, 1]
        sources = self.media[0].source_patches[leading_separators(self.media[0]) :].cpu().numpy()
        return ranking_of_first_row(in_encoder, told.ranking[0, :n_tokens], sources, n_patches)

    def describe(self, **facts: Any) -> None:
        """Add to all records what only the caller knows; `notes` come after those of family and cut."""
        more: tuple[str, ...] = facts.get("notes", ())
        facts["notes"] = (*self._notes(), *more)
        if self.grid is not None and "geometries" in facts:
            facts["geometries"] = tuple(self.grid.geometry(geometry) for geometry in facts["geometries"])
        self.recording.describe(**facts)
        if self.language is not None:
            facts["notes"] = (*self._notes("second"), *more)
            self.language.describe(**{name: fact for name, fact in facts.items() if name != "geometries"})

    def prepare(self, inputs: Mapping[str, Any]) -> BatchFeature:
        """Encode the media, cut placeholders and positions to match, and put all on the model's device.

        Prepare anew before each `generate` with beams or several sequences: transformers repeats the features in place
        for them. Inputs without pictures or videos come back as they are.

        Args:
            inputs: what the processor gave: `input_ids` [batch, length], `pixel_values` [pictures, 3, H, W], ...
                The frames of a video of InternVL or SmolVLM2, which their processors call `pixel_values` too, are to be
                renamed to `pixel_values_videos`: else each is a picture with a budget of its own.

        Raises:
            FlowCutError: placeholders and media do not match, or the prompt holds media of several kinds.
        """
        if not self.in_force:
            raise FlowCutError("prepare encodes the pictures inside the with: call it there.")
        if "input_ids" not in inputs:
            raise FlowCutError("There are no input_ids: give prepare all that the processor returned.")
        with self._turn, joined(*self.recordings.values()), _preparing():
            return self._prepared(inputs)

    def _prepared(self, inputs: Mapping[str, Any]) -> BatchFeature:
        prepared = {name: self._to_device(value) for name, value in inputs.items()}
        self.media, self.remarks, self.grid, self._projected_ranking, self._aim = [], (), None, None, None
        if self.language is not None:
            self.language.aim(None)
        kind = self._kind_of(prepared)
        return BatchFeature(prepared if kind is None else self._encode(kind, prepared))

    def _kind_of(self, inputs: Mapping[str, Any]) -> MediaKind | None:
        """The kind of media that a prompt holds; None: text alone."""
        read = [name for kind in self.family.media for name in kind.inputs]
        if inputs.get("pixel_values_videos") is not None and "pixel_values_videos" not in read:
            raise FlowCutError(f"{self.family.name} takes no videos: hand over pictures, or choose another model.")
        kinds = [kind for kind in self.family.media if inputs.get(kind.inputs[0]) is not None]
        if len(kinds) > 1:
            raise FlowCutError("The prompt holds pictures and a video: put one kind at a time into a prompt.")
        return kinds[0] if kinds else None

    def _encode(self, kind: MediaKind, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with encoded media in place of pixels, and as many placeholders as there are visual tokens."""
        given = {name: inputs[name] for name in (*kind.inputs, *kind.beside) if name in inputs}
        prepared = {name: value for name, value in inputs.items() if name not in kind.inputs}
        is_placeholder = inputs["input_ids"] == self.family.placeholder_id(self.model, kind)
        counts = self.family.placeholders(self.model, kind, given)
        check_placeholders(kind, int(is_placeholder.sum()), counts)
        positions = self.family.positions(self.model, inputs)
        if positions is not None:
            prepared["position_ids"] = positions
        self.recording = self.recordings[kind.name]
        scaled = self._scaled_down(given)
        with torch.no_grad():
            self.media = self.family.encode(self.model, self.recording, kind, scaled, self.encoder_cut)
        self._cut_behind_the_projector(kind.name == "video")
        if self.stage is DECODER:
            self._remark(DECODER.remark)
            prepared.pop("labels", None)  # they are of every token, and logits will not be
        filled = torch.cat(
            [filled_placeholders(count, medium) for count, medium in zip(counts, self.media, strict=True)]
        )
        stays = ~is_placeholder
        stays[is_placeholder] = filled.to(stays.device)
        prepared = drop_tokens(self.model, prepared, stays, self.positions == KEPT)
        if positions is not None:
            prepared["position_ids"] = torch.cat([text_positions(prepared)[None], prepared["position_ids"]])
        features, extras = self.family.handed_over(kind, self.media)
        made = PreparedFeatures.of(features, self._handover(kind, prepared), extras)
        prepared["mm_encoder_outputs"] = {kind.output or kind.name: made}
        return prepared

    def _notes(self, place: str = "first") -> tuple[str, ...]:
        of_family = self.family.notes(self.cut if self.family.unread else self.encoder_cut)
        return (*of_family, *self.family.model_notes(self.model), *self.remarks, *other_stage(self.cut, place))

    def _remark(self, sentence: str) -> None:
        self.remarks = (*self.remarks, sentence)
        self.recording.describe(notes=self._notes())

    def _scaled_down(self, given: dict[str, Any]) -> dict[str, Any]:
        """The pictures at the resolution that `downsample` asks for; as they are under any other cut."""
        self.grid = coarser(self.cut, given, patch_size(self.model))
        if self.grid is None or self.cut is None:
            return given
        self._remark(self.grid.note(self.cut.tokens))
        scaled = self.grid.scaled(given["pixel_values"])
        return {**given, "pixel_values": scaled, "interpolate_pos_encoding": True}

    def _cut_behind_the_projector(self, video: bool) -> None:
        """Drop the tokens that a method of this stage does not keep."""
        if self.cut is None or self.stage is not PROJECTOR:
            return
        check_medium(self.cut, video)
        synchronise(self.model.device)
        started, first = time.perf_counter(), self.cut.first
        self.media, self._projected_ranking = cut_media(self.media, first, Seen.by(self.recording, video))
        self.recording.seconds["scoring"] += time.perf_counter() - started
        was_cut = self._projected_ranking is not None
        uncut = f"Nothing was cut: {first.tokens} tokens were asked for, and no picture has more."
        self._remark(PROJECTOR.remark if was_cut else uncut)
        self.recording.describe(differs_from_release=first.differs if was_cut else ())

    def _handover(self, kind: MediaKind, prepared: Mapping[str, Any]) -> Handover:
        """What the pass that reads a prompt is told of it; for a cut inside the language model where its tokens are."""
        inside = None if self.language is None else self.language.cut
        if inside is None or (inside.by_flowcut and not self.family.in_one_run(kind)):
            return Handover(weakref.ref(self))
        self._aim, sources = aim_at(self.family, self.model, self.media, prepared)
        return Handover(weakref.ref(self), self._aim, sources)

    def _at_the_tower(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """What enters a vision encoder outside `prepare` would go uncut into the language model, or not fit there."""
        recording = next(one for one in self.recordings.values() if one.encoder.model is module)
        if self.cut is not None and not _is_preparing.get() and not recording.watched_by_others():
            raise FlowCutError(NOT_PREPARED)

    def _at_the_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters the model: a prompt that was prepared here, more tokens for its cache, or something else."""
        bound = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**bound, **bound.get("kwargs", {})}
        handover = handover_of(given)
        if handover is None:
            if self.cut is not None and self._holds_media(given):
                raise FlowCutError(IN_PIECES if is_piece(given) else NOT_PREPARED)
            if self.language is not None and self.language.filled(given.get("past_key_values")):
                self._read(None)
        elif handover.session() is self:
            self._read(handover.aim)
            if self.language is not None:
                self.language.describe(sources=handover.sources)
        elif not handover.is_open:  # else another thread's session reads what it prepared itself
            raise FlowCutError("These inputs were prepared in another with, which was left: prepare them in this one.")

    def _holds_media(self, given: Mapping[str, Any]) -> bool:
        """Whether pictures or videos come raw, or as the model's own encoder made them."""
        raw = [given.get(kind.inputs[0]) for kind in self.family.media]
        encoded = (given.get("mm_encoder_outputs") or {}).values()
        # A piece of what was prepared is cut already, unless it is to be cut inside the language model.
        foreign = [one for one in encoded if self.language is not None or not isinstance(one, PreparedFeatures)]
        return any(one is not None for one in raw) or bool(foreign)

    def _read(self, aim: Aim | None) -> None:
        """From here to the end of the pass, the language model is cut in this thread."""
        if self.language is None:
            return
        with ExitStack() as reading:
            reading.enter_context(self._turn)
            reading.enter_context(self.language.reading(aim))
            self._reading.until_the_end = reading.pop_all()

    def _after_the_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The pass has ended, well or with an error."""
        ended: ExitStack | None = self._reading.__dict__.pop("until_the_end", None)
        if ended is not None:
            ended.close()

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.model.device)
        # Pixels take the model's dtype; a list of numbers, such as seconds, would lose digits by it.
        return value.to(self.model.dtype) if value.is_floating_point() and value.ndim > 1 else value


@contextmanager
def _preparing() -> Iterator[None]:
    """While inside, this thread's pictures go through the vision encoder for a session."""
    before = _is_preparing.set(True)
    try:
        yield
    finally:
        _is_preparing.reset(before)
