"""Pruning with a stock model and processor in hand: pictures encoded and cut first, then placeholders to match."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flowcut.allowed import check_allowed
from flowcut.errors import FlowCutError
from flowcut.families import family_of
from flowcut.families.family import EncodedPicture
from flowcut.language import LanguageRecording, record_language
from flowcut.language_record import LanguageRecord
from flowcut.prompts import OwnPrompts, drop_tokens
from flowcut.record import PADDING_ID, FlowRecord
from flowcut.schedule import CutConfig, check_is_cut
from flowcut.stages import (
    Coarser,
    behind_the_projector,
    coarser,
    in_the_encoder,
    leading_separators,
    patches_of_first_row,
    ranking_of_first_row,
    stage_of,
)
from flowcut.vision import record as record_encoder
from flowcut.vision import synchronise


def prune(hf_model: PreTrainedModel, cut: CutConfig | None = None, *, record: bool = True) -> Session:
    """Prune the pictures of a stock model, for the length of a `with`; `generate` stays the stock one.

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
    return Session(hf_model, cut, record)


class Session:
    """A `with` in which pictures handed to `prepare` are encoded, recorded and pruned."""

    def __init__(self, hf_model: PreTrainedModel, cut: CutConfig | None, record: bool) -> None:
        if not isinstance(hf_model, PreTrainedModel):
            raise FlowCutError(
                f"hf_model is a {type(hf_model).__name__}: give a transformers model (of what flowcut.load returned, "
                "its .model)."
            )
        check_is_cut(cut)
        self.model = hf_model
        self.cut = cut
        self.family = family_of(hf_model.config)
        check_allowed(cut, hf_model, self.family)
        self.encoder_cut = in_the_encoder(cut)
        self.remarks: tuple[str, ...] = ()
        """What a reader must know of a cut outside the encoder, of what was prepared last."""
        self.grid: Coarser | None = None
        """The coarser grid that the last pictures were scaled down to, if they were."""
        self._projected_ranking: np.ndarray | None = None
        facts = {"model_id": hf_model.name_or_path or None, "family": self.family.name, "notes": self._notes()}
        tower = self.family.vision_tower(hf_model)
        layer = self.family.feature_layer(hf_model)
        self.recording = record_encoder(tower, self.encoder_cut, layer, flows=record, facts=facts)
        self.language: LanguageRecording | None = None
        """The cut inside the language model, for families and methods that have one."""
        layer_of_flowcut = self.family.language_layer
        if cut is not None and cut.method == "flowcut" and layer_of_flowcut is not None:
            self.language = record_language(
                self.family.language_model(hf_model), None, cut, layer_of_flowcut, facts=dict(facts)
            )
        elif stage_of(cut) == "decoder":
            self.language = record_language(self.family.language_model(hf_model), None, cut, facts=dict(facts))
        self.pictures: list[EncodedPicture] = []
        """What the last `prepare` made of each picture, in the order of the prompts."""
        self._undo = ExitStack()

    def __enter__(self) -> Session:
        with ExitStack() as undo:
            undo.enter_context(self.recording)
            if self.language is not None:
                undo.enter_context(self.language)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def record(self) -> FlowRecord:
        """What the last `prepare` showed; with several pictures, they are its batch, in the order of the prompt."""
        return self.recording.record

    @property
    def language_record(self) -> LanguageRecord | None:
        """What the last prompt showed inside the language model; None where nothing is cut there, or nothing ran."""
        return self.language.record if self.language is not None and self.language.recorded else None

    @property
    def separator_tokens(self) -> int:
        """Visual tokens of the last prompt that are no patch, such as newline tokens."""
        return sum(part.separators for part in (*self.pictures, *self.recording.token_sources))

    @property
    def final_patch_ids(self) -> np.ndarray | None:
        """int64 [T], as `Run.final_patch_ids` says, of what was prepared last."""
        if self.grid is not None:
            return None
        pooled = [part.patches for part in self.recording.token_sources]
        stays = None
        if self.language is not None and self.pictures:
            if not self.language.recorded:
                return None
            lead = leading_separators(self.pictures[0])
            stays = np.arange(len(self.pictures[0].features)) < lead
            stays[lead + self.language.record.kept(0)] = True
        return patches_of_first_row(self.recording.record.kept_patch_ids, self.pictures, pooled, stays)

    @property
    def ranking(self) -> np.ndarray | None:
        """float32 [N], as `Run.ranking` says, of what was prepared last."""
        if self._projected_ranking is not None:
            n_patches = self.recording.lanes[0].died_at.shape[1]  # those of the first row come first
            return self._projected_ranking[:n_patches].astype(np.float32)
        ranking = self.recording.lanes[0].ranking
        in_encoder = None if ranking is None else ranking[0].cpu().numpy()
        told = self.language_record
        if told is None or told.ranking is None or told.sources is None:
            return ranking_of_first_row(in_encoder, None, np.empty((0, 2)), 0)
        n_tokens, n_patches = told.spans[0, 1], self.recording.lanes[0].died_at.shape[1]
        return ranking_of_first_row(in_encoder, told.ranking[0, :n_tokens], told.sources[0, :n_tokens], n_patches)

    def describe(self, **facts: Any) -> None:
        """Add to all records what only the caller knows; `notes` come after those of family and cut."""
        facts["notes"] = (*self._notes(), *facts.get("notes", ()))
        if self.grid is not None and "geometries" in facts:
            facts["geometries"] = tuple(self.grid.geometry(geometry) for geometry in facts["geometries"])
        self.recording.describe(**facts)
        if self.language is not None:
            self.language.describe(**{name: fact for name, fact in facts.items() if name != "geometries"})

    def prepare(self, inputs: Mapping[str, Any]) -> BatchFeature:
        """Encode the pictures, cut the placeholders to match, and put all on the model's device.

        Prepare anew before each `generate` with beams or several sequences: transformers repeats the picture's
        features in place for them. Inputs without a picture come back as they are.

        Args:
            inputs: what the processor gave: `input_ids` [batch, length], `pixel_values` [pictures, 3, H, W], ...

        Raises:
            FlowCutError: placeholders and pictures do not match, before or after the cut.
        """
        if not self.recording.in_force:
            raise FlowCutError("prepare encodes the pictures inside the with: call it there.")
        if "input_ids" not in inputs:
            raise FlowCutError("There are no input_ids: give prepare all that the processor returned.")
        prepared = {name: self._to_device(value) for name, value in inputs.items()}
        self.pictures, self.remarks, self.grid, self._projected_ranking = [], (), None, None
        if isinstance(self.family, OwnPrompts):
            return self.family.prepare(self.model, self.recording, prepared)
        pictures = {name: prepared.pop(name) for name in self.family.picture_inputs if name in prepared}
        if pictures.get("pixel_values") is not None:
            before = self.family.placeholders(self.model, pictures)
            self._check_placeholders(prepared["input_ids"], before)
            pictures = self._scaled_down(pictures)
            with torch.no_grad():
                self.pictures = self.family.encode(self.model, self.recording, pictures, self.encoder_cut)
            self._cut_behind_the_projector()
            if stage_of(self.cut) == "decoder":
                self._remark("The encoder was not cut: the method cuts inside the language model.")
            prepared = self._cut_placeholders(prepared, before, [len(picture.features) for picture in self.pictures])
            features: Any = [picture.features for picture in self.pictures]
            prepared["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        self._aim(prepared)
        return BatchFeature(prepared)

    def _notes(self) -> tuple[str, ...]:
        return (*self.family.notes(self.encoder_cut), *self.remarks)

    def _remark(self, sentence: str) -> None:
        self.remarks = (*self.remarks, sentence)
        self.recording.describe(notes=self._notes())

    def _scaled_down(self, pictures: dict[str, Any]) -> dict[str, Any]:
        """The pictures at the resolution that `downsample` asks for; as they are under any other cut."""
        self.grid = coarser(self.cut, pictures, getattr(self.model.config.vision_config, "patch_size", 1))
        if self.grid is None or self.cut is None:
            return pictures
        self._remark(self.grid.note(self.cut.tokens))
        scaled = self.grid.scaled(pictures["pixel_values"])
        return {**pictures, "pixel_values": scaled, "interpolate_pos_encoding": True}

    def _cut_behind_the_projector(self) -> None:
        """Drop the tokens that a method of this stage does not keep."""
        if self.cut is None or stage_of(self.cut) != "projector":
            return
        synchronise(self.model.device)
        started = time.perf_counter()
        cut = [behind_the_projector(picture, self.cut) for picture in self.pictures]
        self.recording.seconds["scoring"] += time.perf_counter() - started
        self.pictures = [picture for picture, _ in cut]
        self._projected_ranking = cut[0][1]
        if self._projected_ranking is None:
            self._remark(f"Nothing was cut: {self.cut.tokens} tokens were asked for, and no picture has more.")
        else:
            self._remark("The encoder was not cut: the method chooses among the tokens behind the projector.")

    def _aim(self, prepared: Mapping[str, Any]) -> None:
        """Tell the cut inside the language model where each picture's tokens are, and where each prompt ends."""
        if self.language is None:
            return
        if not self.pictures:
            self.language.aim(None)
            return
        input_ids, mask = prepared["input_ids"], prepared.get("attention_mask")
        is_image = input_ids == self.family.image_token_id(self.model)
        places, begin = is_image.nonzero().tolist(), 0
        spans: list[list[tuple[int, int]]] = [[] for _ in input_ids]
        sources = []
        for picture in self.pictures:
            if len(picture.features):
                (prompt, start), lead = places[begin], leading_separators(picture)
                spans[prompt].append((start + lead, len(picture.features) - lead))
                sources.append(picture.sources[lead:].cpu())
            begin += len(picture.features)
        live = torch.ones_like(input_ids) if mask is None else mask
        ends = [int(row.nonzero()[-1]) + 1 for row in live]
        self.language.aim(spans, ends)
        padded = nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=PADDING_ID)
        self.language.describe(sources=padded.numpy())

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.model.device)
        # Pixels take the model's dtype; a list of numbers, such as seconds, would lose digits by it.
        return value.to(self.model.dtype) if value.is_floating_point() and value.ndim > 1 else value

    def _check_placeholders(self, input_ids: Tensor, per_picture: list[int]) -> None:
        found = int((input_ids == self.family.image_token_id(self.model)).sum())
        if found != sum(per_picture):
            each = " + ".join(str(count) for count in per_picture)
            raise FlowCutError(
                f"The prompt holds {found} image placeholders, and {len(per_picture)} picture(s) need {each} = "
                f"{sum(per_picture)}: write <image> once per picture and let the model's own processor expand it."
            )

    def _cut_placeholders(self, inputs: dict[str, Any], before: list[int], after: list[int]) -> dict[str, Any]:
        """Of each picture's run of placeholders keep as many as it has features, the first: they fill them in order."""
        if after == before:
            return inputs
        input_ids: Tensor = inputs["input_ids"]
        is_image = input_ids == self.family.image_token_id(self.model)
        runs = [torch.arange(run) < left for run, left in zip(before, after, strict=True)]
        stays = ~is_image
        stays[is_image] = torch.cat(runs).to(stays.device)
        return drop_tokens(self.model, inputs, stays)
