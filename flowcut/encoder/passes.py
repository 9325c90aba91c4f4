"""One batch on its way through a vision encoder: which rows of its tensors are whose, and what is shown and cut.

Two layouts: a batch of one row per picture (CLIP, SigLIP: `BatchPass`), and all pictures in one sequence, without
padding, attended in windows (Qwen: `PackedPass`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowcut.cut import even_shares
from flowcut.encoder.evidence import LayerInputs
from flowcut.encoder.locate import PackedEncoder, VisionEncoder
from flowcut.encoder.plan import EncoderPlan
from flowcut.encoder.prune_group import PruneGroup
from flowcut.errors import FlowCutError
from flowcut.hooks.attention import Attention
from flowcut.hooks.model_facts import synchronise
from flowcut.hooks.precision import full_precision

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a layer."""


class EncoderPass(ABC):
    """What all layouts share: the prune groups, the clock, and showing a layer to a prune group."""

    def __init__(
        self, encoder: VisionEncoder, plan: EncoderPlan, seconds: dict[str, float], device: torch.device
    ) -> None:
        self.encoder = encoder
        self.plan = plan
        self.seconds = seconds
        self.device = device
        self.hidden: Tensor | None = None
        self.prune_groups: list[PruneGroup] = []
        self.attended_pairs: list[int] = []
        """Per layer, the pairs of query and key over all pictures: what its attention costs."""

    @contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """Count the time spent inside; waits for the device, so that its work is not counted elsewhere."""
        synchronise(self.device)
        started = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[kind] += time.perf_counter() - started

    def show(self, prune_group: PruneGroup, inputs: LayerInputs) -> None:
        """Let a prune group take from a layer what the cut needs, and what the record needs."""
        with self.clock("scoring"), full_precision(self.device):
            prune_group.score_layer(self.with_relay(inputs))
        if self.plan.flows:
            with self.clock("recording"), full_precision(self.device):
                prune_group.observe(self.with_relay(inputs))

    def with_relay(self, inputs: LayerInputs) -> LayerInputs:
        """The view with CLS, or what stands in for it, as token 0."""
        return inputs.with_proxy() if self.plan.proxy else inputs

    @abstractmethod
    def entering(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """A layer is about to run; other arguments for it, where a cut made the stock ones stale."""

    @abstractmethod
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The layer's attention as `attention` gives it, with a look inside."""

    @abstractmethod
    def cut_after(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The layer's output without the patches pruned here; None if all are kept."""

    def _advance(self, layer: int) -> tuple[list[int], list[Tensor | None]]:
        """Let each prune group cut: patches kept before, and positions among them that are kept on (None: all)."""
        before = [prune_group.n_kept for prune_group in self.prune_groups]
        with self.clock("scoring"), full_precision(self.device):
            kept = [prune_group.cut_after(layer) for prune_group in self.prune_groups]
        if self.plan.flows:
            with self.clock("recording"), full_precision(self.device):
                for prune_group, positions in zip(self.prune_groups, kept, strict=True):
                    prune_group.observe_cut(positions)
        return before, kept

    def _unchanged(self, before: list[int]) -> bool:
        return all(prune_group.n_kept == count for prune_group, count in zip(self.prune_groups, before, strict=True))


class BatchPass(EncoderPass):
    """Pictures of one size, [B, N+1, width] with CLS or [B, N, width] without."""

    def __init__(
        self,
        encoder: VisionEncoder,
        plan: EncoderPlan,
        seconds: dict[str, float],
        embedded: Tensor,
        budgets: list[int] | None = None,
    ) -> None:
        """`embedded` is the patch embedding's output, [B, width, rows, columns]: it knows the batch and the grid.

        With `budgets`, patches to keep in each row, rows are cut apart from each other.
        """
        super().__init__(encoder, plan, seconds, embedded.device)
        self.cls = 0 if plan.proxy else 1
        self.looking_ahead = False
        batch, _, grid_rows, grid_cols = embedded.shape
        per_image = budgets is not None or (plan.cut is not None and plan.cut.per_image)
        rows = [slice(b, b + 1) for b in range(batch)] if per_image else [slice(0, batch)]
        patch_ids = torch.arange(grid_rows * grid_cols, device=embedded.device).expand(batch, -1)
        targets = budgets if budgets is not None and plan.cut is not None else [None] * len(rows)
        pairs = zip(rows, targets, strict=True)
        self.prune_groups = [PruneGroup(plan, row, patch_ids[row].clone(), grid_cols, target) for row, target in pairs]

    def entering(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Layers take no positions, and a mask that hides nothing: it is left out once it does not fit any more.

        Raises:
            FlowCutError: the mask hides patches.
        """
        self.hidden = args[0].detach()
        if all(mask is None for mask in args[1:]):
            return None
        check_hides_nothing(args[1])
        whole = all(prune_group.n_kept == prune_group.pruned_at.shape[1] for prune_group in self.prune_groups)
        return None if whole else ((args[0], *(None for _ in args[1:])), kwargs)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """[B, L, H, d]; where prune groups differ in length each attends within itself, and padding stays zero."""
        with torch.no_grad():
            self._look(layer, query, key, value, scaling)
        lengths = [prune_group.n_kept + self.cls for prune_group in self.prune_groups]
        if min(lengths) == query.shape[2]:
            return attention(query, key, value)
        output = query.new_zeros(query.shape).transpose(1, 2).contiguous()
        for prune_group, length in zip(self.prune_groups, lengths, strict=True):
            parts = [part[prune_group.rows, :, :length] for part in (query, key, value)]
            output[prune_group.rows, :length] = attention(*parts)
        return output

    def _look(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        """Show each prune group its own part of a layer: queries, keys and values are [B, H, longest N+1, d]."""
        assert self.hidden is not None
        for prune_group in self.prune_groups:
            live = slice(0, prune_group.n_kept + self.cls)
            q, k, v = (part.detach()[prune_group.rows, :, live] for part in (query, key, value))
            inputs = LayerInputs(layer, self.hidden[prune_group.rows, live], q, k, v, scaling)
            if not self.looking_ahead:
                self.show(prune_group, inputs)
            elif prune_group.above_target:
                with full_precision(self.device):
                    prune_group.gather_evidence(self.with_relay(inputs))
        if not self.looking_ahead:
            sizes = [
                len(prune_group.kept_ids) * (prune_group.n_kept + self.cls) ** 2 for prune_group in self.prune_groups
            ]
            self.attended_pairs.append(sum(sizes))

    def cut_after(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The layer's output, [B, N+1, width], without the patches pruned here; None if all are kept."""
        with torch.no_grad():
            if layer == self.plan.feature_layer:
                with self.clock("scoring"):
                    self._look_ahead(hidden)
                    for prune_group in self.prune_groups:
                        prune_group.gather_features(hidden[prune_group.rows, self.cls : self.cls + prune_group.n_kept])
            before, kept = self._advance(layer)
        if self._unchanged(before):
            return None
        rows = [
            self._keep_rows(hidden[prune_group.rows], count, positions, prune_group.joins)
            for prune_group, count, positions in zip(self.prune_groups, before, kept, strict=True)
        ]
        longest = max(prune_group.n_kept for prune_group in self.prune_groups) + self.cls
        return torch.cat([nn.functional.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])

    def _look_ahead(self, hidden: Tensor) -> None:
        """Run ahead, uncut and unseen by anyone else, to a deeper layer whose CLS row a method asks for."""
        last = self.plan.last_look
        if last <= self.plan.feature_layer or not any(prune_group.above_target for prune_group in self.prune_groups):
            return
        self.looking_ahead = True
        try:
            for layer in self.encoder.layers[self.plan.feature_layer + 1 : last + 1]:
                hidden = self.encoder.run_unseen(layer, hidden)
        finally:
            self.looking_ahead = False

    def _keep_rows(self, hidden: Tensor, n_kept: int, kept: Tensor | None, joins: Tensor | None) -> Tensor:
        """CLS and the kept of one prune group's patches: [b, longest N+1, width] -> [b, N'+1, width].

        Patches that join a kept one leave their mean with it: it becomes its own feature plus that mean (VisionZip), or
        the mean of itself and them (ApET).
        """
        if kept is None:
            return hidden[:, : n_kept + self.cls]
        tokens = nn.functional.pad(kept.to(hidden.device) + self.cls, (self.cls, 0))  # CLS, token 0, is always kept
        rows = hidden.gather(1, tokens[..., None].expand(-1, -1, hidden.shape[-1]))
        if joins is None:
            return rows
        patches, own = hidden[:, self.cls : self.cls + n_kept], rows[:, self.cls :]
        joined, counts = _mean_joined(patches, joins, kept.shape[1])
        by_mean = self.plan.method is not None and self.plan.method.merges_by_mean
        merged = (own + joined * counts) / (1 + counts) if by_mean else own + joined
        return torch.cat([rows[:, : self.cls], merged.to(rows.dtype)], dim=1)


class PackedPass(EncoderPass):
    """Pictures of any size in one sequence, [rows, width]; a prune group for each picture, or slice of a video.

    Rows lie merge group by merge group and, in encoders with window attention, window by window. Prune groups know
    their patches in reading order; `places` says in which row of the sequence each of these is now.
    """

    def __init__(
        self,
        encoder: PackedEncoder,
        plan: EncoderPlan,
        seconds: dict[str, float],
        grids: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        """`grids` are the slices in time, rows and columns of patches of each picture or video."""
        super().__init__(encoder, plan, seconds, device)
        self.grids = [tuple(grid) for grid in grids]
        self.places: list[Tensor] = []
        self.shares = [_shares(plan, slices) for slices, _, _ in self.grids]
        begin = 0
        for (slices, rows, cols), shares in zip(self.grids, self.shares, strict=True):
            order = encoder.row_order(rows, cols).to(device)
            for place in range(slices):
                row = slice(len(self.prune_groups), len(self.prune_groups) + 1)
                self.prune_groups.append(
                    PruneGroup(plan, row, torch.arange(rows * cols, device=device)[None], cols, shares[place])
                )
                self.places.append(begin + order.argsort())
                begin += rows * cols
        self.n_rows = begin
        self.kept_rows = torch.arange(begin, device=device)
        """Which of the rows that entered the encoder are still there."""
        self.borders: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def whole(self) -> bool:
        """Whether nothing was cut so far."""
        return len(self.kept_rows) == self.n_rows

    def entering(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Rotary positions and the borders of windows are those of all rows: hand on those of the rows kept."""
        self.hidden, self._seen = args[0].detach(), []
        self.borders = kwargs["cu_seqlens"]
        if not self.whole:
            kwargs = self._gathered(kwargs)
            self.borders = kwargs["cu_seqlens"]
        lengths = self.borders.diff().long()
        self.attended_pairs.append(int((lengths**2).sum()))
        return None if self.whole else (args, kwargs)

    def _gathered(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        borders = kwargs["cu_seqlens"]
        positions = tuple(part[self.kept_rows] for part in kwargs["position_embeddings"])
        left = torch.searchsorted(self.kept_rows, borders.long()).unique_consecutive().to(borders.dtype)
        changed = {"cu_seqlens": left, "position_embeddings": positions}
        if kwargs.get("max_seqlen") is not None:
            changed["max_seqlen"] = int(left.diff().max())
        return {**kwargs, **changed}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """[1, L, H, d]; off flash this is called window by window, and looked at when the last one is there."""
        self._seen.append((query, key, value))
        if sum(part[0].shape[2] for part in self._seen) == len(self.kept_rows):
            queries, keys, values = (torch.cat(parts, dim=2) for parts in zip(*self._seen, strict=True))
            with torch.no_grad():
                self._look(layer, queries, keys, values, scaling)
            self._seen = []
        return attention(query, key, value)

    def _look(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        """Show each prune group its own rows of a layer: queries, keys and values are [1, H, rows, d]."""
        assert self.hidden is not None
        assert self.borders is not None
        rows = torch.arange(len(self.kept_rows), device=self.device)
        window = torch.searchsorted(self.borders[1:].long().contiguous(), rows, right=True)
        for prune_group, places in zip(self.prune_groups, self.places, strict=True):
            q, k, v = (part.detach()[:, :, places] for part in (query, key, value))
            self.show(
                prune_group, LayerInputs(layer, self.hidden[places][None], q, k, v, scaling, window[places][None])
            )

    def cut_after(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The layer's output, [rows, width], without the rows pruned here; None if all are kept."""
        with torch.no_grad():
            before, kept = self._advance(layer)
        if self._unchanged(before):
            return None
        with torch.no_grad(), self.clock("scoring"):
            pairs = zip(self.places, kept, strict=True)
            left = [places if chosen is None else places[chosen[0]] for places, chosen in pairs]
            rows = torch.cat(left).sort().values
            self.places = [torch.searchsorted(rows, places) for places in left]
            self.kept_rows = self.kept_rows[rows]
        return hidden[rows]

    def on_full_grid(self, tokens: Tensor) -> Tensor | None:
        """The merged tokens, [tokens kept, width], put at their places among all, zeros between; None if all are here.

        The stock code after the merger puts tokens back from windows into reading order and counts those of each
        picture: it expects them all.
        """
        if self.whole:
            return None
        size = self.plan.patches_per_token
        places = self.kept_rows[::size] // size
        return tokens.new_zeros(self.n_rows // size, tokens.shape[-1]).index_copy(0, places, tokens)

    def token_places(self) -> list[Tensor]:
        """Per picture int64 [tokens kept]: which of its tokens, in reading order and slice by slice, were kept."""
        found, prune_groups = [], iter(self.prune_groups)
        for slices, rows, cols in self.grids:
            per_slice = rows * cols // self.plan.patches_per_token
            found.append(torch.cat([next(prune_groups).token_ids()[0] + place * per_slice for place in range(slices)]))
        return found


def check_hides_nothing(mask: Tensor) -> None:
    """
    Raises:
        FlowCutError: an encoder's attention mask, of True or of zeros where it hides nothing, hides patches.
    """
    hidden = ~mask if mask.dtype == torch.bool else mask < 0
    if bool(hidden.any()):
        raise FlowCutError(
            "These pictures are padded, and the vision encoder is told to overlook the padding: flowcut records and "
            "cuts whole tiles, so let the model's own processor make them."
        )


def _mean_joined(patches: Tensor, joins: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean of the patches that join each kept one, [b, count, width], taken in float32, 0 where none does; and how
    many they are, [b, count, 1].

    Args:
        patches: [b, N, width].
        joins: int64 [b, N], places among the kept; -1: joins none.
    """
    which = nn.functional.one_hot(joins.to(patches.device) + 1, count + 1)[..., 1:].float()  # [b, N, count]
    counts = which.sum(dim=1, keepdim=True)
    with full_precision(patches.device):
        mean = ((which / counts.clamp_min(1)).transpose(1, 2) @ patches.float()).to(patches.dtype)
    return mean, counts.transpose(1, 2).to(patches.dtype)


def _shares(plan: EncoderPlan, slices: int) -> Sequence[int | None]:
    """The budget of each slice in time."""
    return [None] * slices if plan.cut is None else even_shares(plan.cut.tokens, slices, "slices in time")
