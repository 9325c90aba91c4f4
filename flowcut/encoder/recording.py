"""Recording and pruning inside a vision encoder, for the length of a `with`; afterwards the model is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.criteria.stages import ENCODER, PROJECTOR
from flowcut.cut import CutConfig, check_is_cut, check_single, stage_of
from flowcut.encoder.locate import PackedEncoder, VisionEncoder, feature_layer_index, find_encoder, read_layer_index
from flowcut.encoder.notes import cls_note, differences_of, looks_behind, notes_of
from flowcut.encoder.passes import BatchPass, Call, EncoderPass, PackedPass
from flowcut.encoder.plan import EncoderPlan
from flowcut.encoder.prune_group import PruneGroup
from flowcut.encoder.to_record import assemble
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.hooks.attention import Attention, is_watching, watched, watching
from flowcut.hooks.elsewhere import Elsewhere
from flowcut.hooks.usable import check_usable
from flowcut.records.vision import FlowRecord


def record(
    vision_model: nn.Module,
    cut: CutConfig | None = None,
    feature_layer: int | list[int] | None = None,
    *,
    flows: bool = True,
    matrices: bool = False,
    facts: dict[str, Any] | None = None,
) -> Recording:
    """Record, and with a cut also prune, every picture that `vision_model` encodes inside the `with`.

    ```python
    with flowcut.record(vision_model, cut=flowcut.FlowCut(tokens=64)) as rec:
        out = vision_model(pixel_values, output_hidden_states=True)
    rec.record.kept_patch_ids
    ```

    Args:
        vision_model: a CLIPVisionModel (bare, with projection, or the one in a LLaVA), a SiglipVisionModel, the
            encoder of an InternVL, SmolVLM, Qwen-VL (2 to 3) or Qwen3.5, or a model that holds one of them.
        cut: which patches to keep; None records only.
        feature_layer: the hidden state that is read from the encoder, as in `hidden_states[feature_layer]`; None: the
            one that language models read of this encoder, -2 for CLIP and the last for the others.
        flows: False prunes only: the record then holds steps and ids, no layers, and none of their cost.
        matrices: True also keeps each layer's head-mean attention matrix (CLIP-L at 336 px: 16 MB a picture).
        facts: fields of FlowRecord that only the caller knows (model_id, revision, family, notes, geometry).

    Raises:
        FlowCutError: (a ValueError) an encoder that is not supported, or a cut it cannot do.
    """
    check_is_cut(cut)
    _check_stage(cut)
    check_usable(vision_model)
    return Recording.of(vision_model, cut, feature_layer, flows=flows, matrices=matrices, facts=facts)


class Recording:
    """A `with` over a vision encoder; `record` is the last pass through it.

    Only the thread that entered the `with` is recorded and pruned; others that use the model meanwhile are not. If only
    others did, leaving the `with` raises: nothing was cut.
    """

    def __init__(self, encoder: VisionEncoder, plan: EncoderPlan, facts: dict[str, Any]) -> None:
        self.encoder = encoder
        self.plan = plan
        self.facts = facts
        self.seconds = {"scoring": 0.0, "recording": 0.0}
        """Spent in all passes on scores and selection, and on recording the flow."""
        self._layer_of = {encoder.attention(layer): index for index, layer in enumerate(encoder.layers)}
        self._finished: list[PruneGroup] = []
        self._last: list[PruneGroup] = []
        self._gathered: list[PruneGroup] | None = None
        self._record: FlowRecord | None = None
        self._pass: EncoderPass | None = None
        self.attended_pairs: tuple[int, ...] = ()
        """Of the last pass: per layer, the pairs of query and key over all pictures."""
        self.kept_tokens: tuple[Tensor, ...] = ()
        """Of the last pass through a packed encoder: per picture int64 [tokens], which of its tokens were kept."""
        self._row_budgets: list[int] | None = None
        self._open = False
        """Not left yet, in whatever thread."""
        self.elsewhere = Elsewhere("vision encoder")
        self._undo = ExitStack()

    @classmethod
    def of(
        cls,
        vision_model: nn.Module,
        cut: CutConfig | None,
        feature_layer: int | list[int] | None = None,
        *,
        flows: bool = True,
        matrices: bool = False,
        hands_cls: bool = True,
        facts: dict[str, Any] | None = None,
        seen_by: CutConfig | None = None,
    ) -> Recording:
        """As `record`, for a cut that is known to be one of the encoder's, or one that is made behind the projector.

        Args:
            hands_cls: whether what reads the encoder takes its CLS token, where a method hands it over.
        """
        encoder = find_encoder(vision_model)
        n_layers = len(encoder.layers)
        _check_evidence_layer(cut, n_layers)
        read = encoder.read_layer if feature_layer is None else feature_layer
        plan = EncoderPlan(
            cut=cut,
            n_layers=n_layers,
            n_heads=encoder.n_heads,
            feature_layer=feature_layer_index(read, n_layers),
            read_layer=read_layer_index(read, n_layers),
            flows=flows,
            matrices=flows and matrices,
            proxy=not encoder.has_cls,
            own_release=encoder.own_release,
            merge_side=encoder.merge_side if isinstance(encoder, PackedEncoder) else 1,
            seen_by=seen_by if stage_of(seen_by) is PROJECTOR else None,
            windows=isinstance(encoder, PackedEncoder) and encoder.window_side is not None,
            hands_cls=hands_cls,
        )
        return cls(encoder, plan, facts or {})

    def __enter__(self) -> Recording:
        with ExitStack() as undo:  # undoes what was done so far, should one of the next lines fail
            if watched(next(iter(self._layer_of))):
                raise FlowCutError(
                    "This vision encoder is already being recorded in this thread: leave that with first."
                )
            undo.enter_context(watching(self.encoder.model, self))
            undo.enter_context(self._opening_hooks())
            for index, layer in enumerate(self.encoder.layers):
                undo.callback(layer.register_forward_pre_hook(self._entering, with_kwargs=True).remove)
                # First in line, so that transformers' own hooks see the pruned state at the feature layer.
                undo.callback(layer.register_forward_hook(self._leaving(index), prepend=True).remove)
            self._undo = undo.pop_all()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass, self._open = None, False
        self._undo.close()
        if error is None and self.plan.cut is not None:
            self.elsewhere.check()

    @property
    def record(self) -> FlowRecord:
        """The last pass through the encoder.

        Raises:
            FlowCutError: nothing passed through the encoder in this thread.
        """
        if not self._finished:
            raise FlowCutError(
                "Nothing was recorded: run the vision encoder inside the with, in the thread that entered it."
            )
        if self._record is None:
            notes = (*notes_of(self.plan, self._finished), *self.facts.get("notes", ()))
            differs = (
                *differences_of(self.plan, self._finished, self.encoder),
                *self.facts.get("differs_from_release", ()),
            )
            facts = {**self.encoder.facts(), **self.facts, "notes": notes, "differs_from_release": differs}
            self._record = assemble(self._finished, facts)
        return self._record

    @property
    def in_force(self) -> bool:
        """Whether the `with` was entered and not yet left."""
        return self._open

    @property
    def kept_patch_ids(self) -> Tensor:
        """int64 [B, T], patches that the last pass kept; where its pictures were cut apart, to the same number each."""
        return torch.cat([prune_group.kept_ids for prune_group in self._last])

    @property
    def kept(self) -> list[Tensor]:
        """Per row of the last pass int64 [T], the patches that it kept."""
        return [ids for prune_group in self._last for ids in prune_group.kept_ids]

    @property
    def kept_groups(self) -> list[Tensor]:
        """Per row of the last pass int64 [tokens], its merge groups kept, in reading order; patches, if not merged."""
        return [groups for prune_group in self._last for groups in prune_group.token_ids()]

    @property
    def token_patches(self) -> list[Tensor]:
        """Per row of the last pass int64 [tokens, patches per token], the patches that each token kept is made of."""
        return [patches for prune_group in self._last for patches in prune_group.token_patches()]

    @property
    def scores(self) -> list[Tensor | None]:
        """Per row of the last pass float32 [tokens], what the tokens kept were scored by; None: by nothing."""
        found: list[Tensor | None] = []
        for prune_group in self._last:
            scores = prune_group.final_scores()
            found += [None] * len(prune_group.kept_ids) if scores is None else list(scores)
        return found

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the answer must know: layers looked at that nobody reads, a CLS token handed over."""
        return tuple(filter(None, [looks_behind(self.plan), cls_note(self.plan, self._last)]))

    @property
    def was_cut(self) -> list[bool]:
        """Per row of the last pass, whether it lost patches; not where its budget is no smaller than its tokens."""
        return [bool(prune_group.steps) for prune_group in self._last for _ in prune_group.kept_ids]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the record's first row."""
        first = self._finished[0]
        return first.pruned_at.shape[1] // first.grid_cols, first.grid_cols

    @property
    def ranking(self) -> np.ndarray | None:
        """float64 [N], what the patches of the record's first row were ranked by; None where nothing was cut."""
        ranking = self._finished[0].ranking
        return None if ranking is None else ranking[0].cpu().numpy()

    @property
    def evidence(self) -> dict[str, np.ndarray]:
        """float64 [B, N, ...], what the method asked to know of the record's first rows, cut as one."""
        return {name: part.cpu().double().numpy() for name, part in self._finished[0].evidence.items()}

    @property
    def shown(self) -> list[dict[str, np.ndarray]]:
        """Per row of the last pass, what a method wants to know of the attention: float64 [N, ...] by field's name."""
        rows = [(group.evidence, row) for group in self._last for row in range(len(group.kept_ids))]
        return [{name: part[row].double().cpu().numpy() for name, part in found.items()} for found, row in rows]

    def recut(self, cut: CutConfig | None, merge_side: int = 1) -> None:
        """Another cut for the passes to come: budgets of tiles depend on how many a picture has.

        Args:
            merge_side: side of the squares of patches that are pooled into one token, and so kept or pruned together.
        """
        self.plan = replace(self.plan, cut=cut, merge_side=merge_side)

    @contextmanager
    def together(self) -> Iterator[None]:
        """The passes inside make one record, the pictures of each pass below those of the one before."""
        self._gathered = []
        try:
            yield
        finally:
            self._gathered = None

    @contextmanager
    def budgets(self, rows: list[int]) -> Iterator[None]:
        """While inside, each row of a batch is cut apart from the others, to its own number of patches."""
        self._row_budgets = rows
        try:
            yield
        finally:
            self._row_budgets = None

    def describe(self, **facts: Any) -> None:
        """Add to the record what only the caller knows: geometry, notes, model_id."""
        self.facts.update(facts)
        self._record = None

    def _in_force(self) -> bool:
        return is_watching(self)

    def _begins(self) -> bool:
        """Whether a pass that begins is recorded, which is noted either way."""
        self.elsewhere.note(self._in_force(), next(iter(self._layer_of)))
        return self._in_force()

    def watched_by_others(self) -> bool:
        """Whether this thread has a recording of its own in force on the same encoder."""
        return watched(next(iter(self._layer_of)), apart_from=self)

    def watches(self, module: nn.Module) -> bool:
        """Whether this is an attention module of the encoder, while the `with` is in force."""
        return self._open and module in self._layer_of

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention, group by group where their lengths differ, with a look inside."""
        if self._pass is None:
            return attention(query, key, value)
        return self._pass.attend(self._layer_of[module], query, key, value, scaling, attention)

    def _opening_hooks(self) -> ExitStack:
        """The hooks that open a pass, and for packed encoders the one that ends it."""
        hooks = ExitStack()
        if isinstance(self.encoder, PackedEncoder):
            start = self.encoder.model.register_forward_pre_hook(self._start_packed, with_kwargs=True)
            hooks.callback(self.encoder.merger.register_forward_hook(self._merged).remove)
            for early in self.encoder.early_mergers.values():
                hooks.callback(early.register_forward_hook(self._merged_early).remove)
        else:
            start = self.encoder.patch_embedding.register_forward_hook(self._start)
        hooks.callback(start.remove)
        return hooks

    def _start(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """The patch embedding opens a pass over a batch."""
        if self._begins():
            self._pass = BatchPass(self.encoder, self.plan, self.seconds, output, self._row_budgets)

    def _start_packed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The encoder itself opens a pass over a sequence: its patches and the grids of its pictures, [pictures, 3]."""
        if self._begins() and isinstance(self.encoder, PackedEncoder):
            grids = (kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]).tolist()
            self._pass = PackedPass(self.encoder, self.plan, self.seconds, grids, self.encoder.model.device)

    def _merged(self, module: nn.Module, args: Any, tokens: Tensor) -> Tensor | None:
        """The merger ends a pass over a sequence."""
        if not isinstance(self._pass, PackedPass) or not self._in_force():
            return None
        ended = self._pass
        self.kept_tokens = tuple(ended.token_places())
        self._finish(ended)
        return ended.on_full_grid(tokens)

    def _merged_early(self, module: nn.Module, args: Any, tokens: Tensor) -> Tensor | None:
        """A merger behind an earlier layer: of the tokens that are still there."""
        return self._pass.on_full_grid(tokens) if isinstance(self._pass, PackedPass) and self._in_force() else None

    def _finish(self, ended: EncoderPass) -> None:
        """A pass came to its end."""
        pairs = tuple(ended.attended_pairs)
        if self._gathered is None:
            self._finished, self.attended_pairs = ended.prune_groups, pairs
        else:
            before = self.attended_pairs if self._gathered else (0,) * len(pairs)
            self._gathered.extend(ended.prune_groups)
            self._finished = list(self._gathered)
            self.attended_pairs = tuple(a + b for a, b in zip(before, pairs, strict=True))
        self._last = ended.prune_groups
        self._record, self._pass = None, None

    def _entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        return self._pass.entering(args, kwargs) if self._pass is not None and self._in_force() else None

    def _leaving(self, layer: int) -> Callable[..., Any]:
        def cut(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self._pass is None or not self._in_force():
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            shorter = self._pass.cut_after(layer, hidden)
            if layer == self.plan.n_layers - 1 and isinstance(self._pass, BatchPass):
                self._finish(self._pass)
            if shorter is None:
                return None
            return (shorter, *output[1:]) if isinstance(output, tuple) else shorter

        return cut


def _check_stage(cut: CutConfig | None) -> None:
    check_single(cut)
    if cut is not None and cut.stage is not ENCODER:
        raise InvalidCut(
            f"The method {cut.method!r} does not cut inside the vision encoder: give it to flowcut.ask or "
            "flowcut.prune, with the whole model."
        )


def _check_evidence_layer(cut: CutConfig | None, n_layers: int) -> None:
    if cut is not None and cut.layer is not None and not -n_layers <= cut.layer < n_layers:
        raise InvalidCut(
            f"layer is {cut.layer} and the vision encoder has {n_layers} layers: choose 0 to {n_layers - 1}, "
            f"or {-n_layers} to -1 counting from the end."
        )
