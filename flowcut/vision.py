"""Recording and pruning inside a vision encoder, for the length of a `with`; afterwards the model is as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from flowcut.assemble import assemble
from flowcut.attention import Attention, is_watching, watched, watching
from flowcut.encoders import VisionEncoder, find_encoder
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.lanes import Lane, Plan, View
from flowcut.record import FlowRecord
from flowcut.schedule import CutConfig, feature_layer_index


def record(
    vision_model: nn.Module,
    cut: CutConfig | None = None,
    feature_layer: int | list[int] = -2,
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
        vision_model: a CLIPVisionModel (bare, with projection, or the one in a LLaVA), or a LLaVA itself.
        cut: which patches to keep; None records only.
        feature_layer: the hidden state that is read from the encoder, as in `hidden_states[feature_layer]`.
        flows: False prunes only: the record then holds steps and ids, no layers, and none of their cost.
        matrices: True also keeps each layer's head-mean attention matrix (CLIP-L at 336 px: 16 MB a picture).
        facts: fields of FlowRecord that only the caller knows (model_id, revision, family, notes, geometry).

    Raises:
        FlowCutError: (a ValueError) an encoder without a CLS token or layers that we know, or a cut it cannot do.
    """
    encoder = find_encoder(vision_model)
    n_layers = len(encoder.layers)
    _check_evidence_layer(cut, n_layers)
    feature = feature_layer_index(feature_layer, n_layers)
    return Recording(encoder, Plan(cut, n_layers, encoder.n_heads, feature, flows, flows and matrices), facts or {})


class Recording:
    """A `with` over a vision encoder; `record` is the last pass through it.

    Only the thread that entered the `with` is recorded and pruned; others that use the model meanwhile are not.
    """

    def __init__(self, encoder: VisionEncoder, plan: Plan, facts: dict[str, Any]) -> None:
        self.encoder = encoder
        self.plan = plan
        self.facts = facts
        self.seconds = {"scoring": 0.0, "recording": 0.0}
        """Spent in all passes on scores and selection, and on recording the flow."""
        self._layer_of = {encoder.attention(layer): index for index, layer in enumerate(encoder.layers)}
        self._finished: list[Lane] = []
        self._last: list[Lane] = []
        self._gathered: list[Lane] | None = None
        self._record: FlowRecord | None = None
        self._pass: _Pass | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Recording:
        with ExitStack() as undo:  # undoes what was done so far, should one of the next lines fail
            if watched(next(iter(self._layer_of))):
                raise FlowCutError(
                    "This vision encoder is already being recorded in this thread: leave that with first."
                )
            undo.enter_context(watching(self.encoder.model, self))
            undo.callback(self.encoder.patch_embedding.register_forward_hook(self._start).remove)
            for index, layer in enumerate(self.encoder.layers):
                undo.callback(layer.register_forward_pre_hook(self._entering).remove)
                # First in line, so that transformers' own hooks see the pruned state at the feature layer.
                undo.callback(layer.register_forward_hook(self._leaving(index), prepend=True).remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass = None
        self._undo.close()

    @property
    def record(self) -> FlowRecord:
        """The last pass through the encoder.

        Raises:
            FlowCutError: nothing went through the encoder in this thread.
        """
        if not self._finished:
            raise FlowCutError(
                "Nothing was recorded: run the vision encoder inside the with, in the thread that entered it."
            )
        if self._record is None:
            notes = (*self._notes(), *self.facts.get("notes", ()))
            self._record = assemble(self._finished, {**self.encoder.facts(), **self.facts, "notes": notes})
        return self._record

    @property
    def kept_patch_ids(self) -> Tensor:
        """int64 [B, T], patches that the last pass kept; where its pictures were cut apart, to the same number each."""
        return torch.cat([lane.alive_ids for lane in self._last])

    def recut(self, cut: CutConfig | None) -> None:
        """Another cut for the passes to come: budgets of tiles depend on how many a picture has."""
        self.plan = replace(self.plan, cut=cut)

    @contextmanager
    def together(self) -> Iterator[None]:
        """The passes inside make one record, the pictures of each pass below those of the one before."""
        self._gathered = []
        try:
            yield
        finally:
            self._gathered = None

    def describe(self, **facts: Any) -> None:
        """Add to the record what only the caller knows: geometry, notes, model_id."""
        self.facts.update(facts)
        self._record = None

    def _notes(self) -> tuple[str, ...]:
        cut, n_patches = self.plan.cut, self._finished[0].died_at.shape[1]
        scored = any(lane.cumulative is not None for lane in self._finished)
        notes = ["Scores are taken in float32, whatever the model's dtype."] if scored else []
        if cut is not None and cut.tokens >= n_patches:
            notes.append(f"Nothing was cut: {cut.tokens} tokens were asked for and there are {n_patches} patches.")
        return tuple(notes)

    def _in_force(self) -> bool:
        return is_watching(self)

    def watches(self, module: nn.Module) -> bool:
        """Whether this is an attention module of the encoder."""
        return module in self._layer_of

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention, lane by lane where their lengths differ, with a look inside."""
        if self._pass is None:
            return attention(query, key, value)
        with torch.no_grad():
            self._pass.look(self._layer_of[module], query, key, value, scaling)
        return self._pass.attention(query, key, value, attention)

    def _start(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """The patch embedding, [B, width, rows, columns], opens a pass: it knows the batch and the grid."""
        if self._in_force():
            self._pass = _Pass(self, len(output), (int(output.shape[2]), int(output.shape[3])), output.device)

    def _entering(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._pass is not None and self._in_force():
            self._pass.hidden = args[0].detach()

    def _leaving(self, layer: int) -> Callable[..., Any]:
        def cut(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self._pass is None or not self._in_force():
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            shorter = self._pass.cut_after(layer, hidden)
            if layer == self.plan.n_layers - 1:
                self._finish(self._pass.lanes)
            if shorter is None:
                return None
            return (shorter, *output[1:]) if isinstance(output, tuple) else shorter

        return cut

    def _finish(self, lanes: list[Lane]) -> None:
        """A pass came to its end."""
        if self._gathered is not None:
            self._gathered.extend(lanes)
        self._last = lanes
        self._finished = lanes if self._gathered is None else list(self._gathered)
        self._record, self._pass = None, None


def _check_evidence_layer(cut: CutConfig | None, n_layers: int) -> None:
    if cut is not None and cut.layer is not None and not -n_layers <= cut.layer < n_layers:
        raise InvalidCut(
            f"layer is {cut.layer} and the vision encoder has {n_layers} layers: choose 0 to {n_layers - 1}, "
            f"or {-n_layers} to -1 counting from the end."
        )


class _Pass:
    """One batch on its way through the encoder: its lanes, and the hidden state that entered the current layer."""

    def __init__(self, recording: Recording, batch: int, grid: tuple[int, int], device: torch.device) -> None:
        self.recording = recording
        self.plan = recording.plan
        self.hidden: Tensor | None = None
        self.scouting = False
        per_image = self.plan.cut is not None and self.plan.cut.per_image
        rows = [slice(b, b + 1) for b in range(batch)] if per_image else [slice(0, batch)]
        patch_ids = torch.arange(grid[0] * grid[1], device=device).expand(batch, -1)
        self.lanes = [Lane(self.plan, row, patch_ids[row].clone(), grid[1]) for row in rows]
        self.device = device

    @contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """Count the time spent inside; waits for the device, so that its work is not counted elsewhere."""
        synchronise(self.device)
        started = time.perf_counter()
        yield
        synchronise(self.device)
        self.recording.seconds[kind] += time.perf_counter() - started

    def look(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        """Show each lane its own part of a layer: queries, keys and values are [B, H, longest N+1, d]."""
        assert self.hidden is not None
        for lane in self.lanes:
            live = slice(0, lane.alive + 1)
            q, k, v = (part.detach()[lane.rows, :, live] for part in (query, key, value))
            view = View(layer, self.hidden[lane.rows, live], q, k, v, scaling)
            if self.scouting:
                self._scout_in(lane, view)
                continue
            with self.clock("scoring"):
                lane.weigh(view)
            if self.plan.flows:
                with self.clock("recording"):
                    lane.observe(view)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        """[B, L, H, d]; where lanes differ in length each attends within itself, and padding stays zero."""
        lengths = [lane.alive + 1 for lane in self.lanes]
        if min(lengths) == query.shape[2]:
            return attention(query, key, value)
        output = query.new_zeros(query.shape).transpose(1, 2).contiguous()
        for lane, length in zip(self.lanes, lengths, strict=True):
            parts = [part[lane.rows, :, :length] for part in (query, key, value)]
            output[lane.rows, :length] = attention(*parts)
        return output

    def cut_after(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The layer's output, [B, N+1, width], without the patches that go here; None if all stay."""
        before = [lane.alive for lane in self.lanes]
        with torch.no_grad(), self.clock("scoring"):
            if layer == self.plan.feature_layer:
                self._scout(hidden)
            kept = [lane.cut_after(layer) for lane in self.lanes]
        if all(lane.alive == count for lane, count in zip(self.lanes, before, strict=True)):
            return None
        rows = [
            _keep_rows(hidden[lane.rows], count, positions)
            for lane, count, positions in zip(self.lanes, before, kept, strict=True)
        ]
        longest = max(lane.alive for lane in self.lanes) + 1
        return torch.cat([nn.functional.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])

    def _scout_in(self, lane: Lane, view: View) -> None:
        if view.layer == self.plan.evidence_layer:
            lane.gather_evidence(view)

    def _scout(self, hidden: Tensor) -> None:
        """Run ahead, uncut and unseen by anyone else, to a deeper layer whose CLS row a method asks for."""
        last = self.plan.evidence_layer
        if last is None or last <= self.plan.feature_layer or not self.lanes[0].above_target:
            return
        self.scouting = True
        try:
            for layer in self.recording.encoder.layers[self.plan.feature_layer + 1 : last + 1]:
                # forward, not the module itself: no hook of ours or of transformers may see this second run
                hidden = layer.forward(hidden, None)
        finally:
            self.scouting = False


def _keep_rows(hidden: Tensor, alive: int, kept: Tensor | None) -> Tensor:
    """CLS and the kept of one lane's patches: [b, longest N+1, width] -> [b, N'+1, width]."""
    if kept is None:
        return hidden[:, : alive + 1]
    tokens = nn.functional.pad(kept.to(hidden.device) + 1, (1, 0))  # CLS, token 0, always stays
    return hidden.gather(1, tokens[..., None].expand(-1, -1, hidden.shape[-1]))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
