"""A prune group: pictures of a batch that are pruned together, from the first vision layer to the last.

As released, a batch is one prune group: its pictures lose the same number of patches. Cut per image, or of unequal
size, each picture is a prune group of its own. Patches that become one token of the language model together (a merge
group) are kept or pruned together: counts and budgets are then of merge groups, and a merge group's score is the mean
of its patches'. A prune group looks into each layer, decides after it, and drafts what the record will hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowcut.criteria import Evidence
from flowcut.criteria import highest as highest_ranked
from flowcut.criteria.evidence import by_removal
from flowcut.criteria.flowcut import (
    Criteria,
    accumulate,
    cls_logits,
    criteria,
    entropy_ratio,
    equal_count,
    group_mean,
    group_positions,
    highest,
    kept_after,
    nearest_kept,
    prunes_after,
    requested_count,
    ungroup,
    value_norm,
)
from flowcut.encoder.evidence import LayerInputs, evidence_of
from flowcut.encoder.plan import EncoderPlan
from flowcut.encoder.statistics import head_value_norm, stream_statistics
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.records.vision import PADDING_ID


@dataclass(frozen=True)
class StepDraft:
    """A prune point of one prune group; numbers per picture where they differ between pictures."""

    layer: int
    kept_before: int
    kept_after: int
    clamped: bool
    entropy_ratio: np.ndarray
    requested_per_image: np.ndarray


@dataclass
class LayerDraft:
    """What one prune group saw of one layer: tensors by the name of their field in LayerFlow."""

    layer: int
    patch_ids: Tensor
    tensors: dict[str, Tensor] = field(default_factory=dict)


class PruneGroup:
    """State of one prune group through one pass of the encoder."""

    def __init__(
        self, plan: EncoderPlan, rows: slice, patch_ids: Tensor, grid_cols: int, target: int | None = None
    ) -> None:
        self.plan = plan
        self.rows = rows
        self.kept_ids = patch_ids
        self.grid_cols = grid_cols
        self.target = plan.cut.tokens if target is None and plan.cut is not None else target
        """Tokens to keep in each picture of the prune group; None: all."""
        self.cumulative: Tensor | None = None
        self.shares: Tensor | None = None
        self.evidence: dict[str, Tensor] = {}
        """What a one-shot method wants to know, by the names of Evidence's fields, per token."""
        self.joins: Tensor | None = None
        """int64 [b, N], of a method that merges: the place among the kept that each patch is merged into, -1: none."""
        self.ranks: Tensor | None = None
        """float64 [b, N0], what a one-shot method ranked the patches by."""
        self.values: Tensor | None = None
        """[b, H, N, d], the patches' values in this layer, held for `observe_cut` where it may be cut after."""
        self.layers: list[LayerDraft] = []
        self.steps: list[StepDraft] = []
        self.pruned_at = torch.full_like(patch_ids, -1)

    @property
    def n_kept(self) -> int:
        """N, patches kept in each picture of the prune group."""
        return int(self.kept_ids.shape[1])

    @property
    def tokens(self) -> int:
        """Tokens of the language model that the patches kept would become; the patches themselves, if not merged."""
        return self.n_kept // self.plan.patches_per_token

    @property
    def above_target(self) -> bool:
        """Whether there is anything to cut."""
        return self.target is not None and self.tokens > self.target

    def token_ids(self) -> Tensor:
        """int64 [b, tokens], the merge groups kept by their place in reading order; patch ids, if not merged."""
        side, first = self.plan.merge_side, self.token_patches()[..., 0]
        row, column = first // self.grid_cols // side, first % self.grid_cols // side
        return row * (self.grid_cols // side) + column

    def token_patches(self) -> Tensor:
        """int64 [b, tokens, patches per token], the patches of each merge group kept."""
        groups = self._groups()
        return self.kept_ids.gather(1, groups.flatten(1)).view_as(groups)

    def final_scores(self) -> Tensor | None:
        """float32 [b, tokens], what the tokens kept were scored by; None where it was no evidence of the pictures."""
        if self.cumulative is not None:
            return self.cumulative.float()
        if self.evidence and self.ranks is not None:
            return self.ranks.gather(1, self.token_patches()[..., 0].cpu()).float()
        return None

    def _groups(self) -> Tensor:
        """int64 [b, tokens, patches per token], which of the patches kept become one token."""
        return group_positions(self.kept_ids, self.grid_cols, self.plan.merge_side)

    def score_layer(self, inputs: LayerInputs) -> None:
        """Take from inside a layer what the cut needs."""
        draft = LayerDraft(inputs.layer, self.kept_ids)
        if self._scores(inputs.layer):
            draft.tensors.update(self._score(inputs))
        if self.above_target or self.plan.seen_by is not None:
            self.gather_evidence(inputs)
        self.layers.append(draft)

    def observe(self, inputs: LayerInputs) -> None:
        """Take from inside a layer, after `score_layer`, what only the record needs."""
        self.layers[-1].tensors.update(self._flow(inputs))
        self.values = inputs.value[:, :, 1:] if self.above_target else None

    def gather_evidence(self, inputs: LayerInputs) -> None:
        """Keep what a one-shot method wants to know of this layer."""
        groups = self._groups()
        for name in self.plan.looks(inputs.layer):
            found = evidence_of(name, inputs, self.plan.proxy)
            # Single patches where each is a token of its own: then the group mean is the number itself.
            self.evidence[name] = group_mean(found, groups) if found.ndim == 2 else found

    def gather_features(self, hidden: Tensor) -> None:
        """Keep what the feature layer gives, [b, N, width], for a one-shot method that compares features."""
        if self.above_target and self.plan.method is not None and "features" in self.plan.method.needs:
            self.evidence["features"] = hidden.detach().float()

    @property
    def ranking(self) -> Tensor | None:
        """float64 [b, N0], what the patches were ranked by, the highest kept longest; None where nothing was cut.

        FlowCut's patches by when they were pruned, then by their running score there, then by reading order; as places
        in this order, 0 the lowest.
        """
        if not self.steps:
            return None
        if self.plan.recipe is None:
            return self.ranks
        last = torch.zeros(self.pruned_at.shape, dtype=torch.float64)
        for draft in self.layers:  # each layer writes over the one before: what is left is a patch's last running score
            if "cumulative" in draft.tensors:
                last.scatter_(1, draft.patch_ids.cpu(), draft.tensors["cumulative"].double().cpu())
        pruned_at = self.pruned_at.cpu()
        when = torch.where(pruned_at < 0, self.plan.n_layers, pruned_at).double()
        return torch.from_numpy(by_removal(when.numpy(), last.numpy()))

    def cut_after(self, layer: int) -> Tensor | None:
        """Cut after this layer, if it is time: int64 [b, N'], positions among the kept that are kept on; None: all."""
        if not self.above_target:
            return None
        if self._stepwise:
            return self._step(layer) if prunes_after(layer, self.plan.last_prune + 1) else None
        return self._cut_at_once(layer) if layer == self.plan.feature_layer else None

    def observe_cut(self, kept: Tensor | None) -> None:
        """Take from a cut what only the record needs; `kept` is what `cut_after` said."""
        values, self.values = self.values, None
        if kept is None or values is None:
            return
        draft = self.layers[-1]
        n_kept = draft.patch_ids
        found = nearest_kept(values, kept.to(values.device))
        pruned, nearest, cosine = (part.to(n_kept.device) for part in found)
        ids, cosines = torch.full_like(n_kept, PADDING_ID), cosine.new_full(n_kept.shape, torch.nan)
        draft.tensors["nearest_kept_id"] = ids.scatter(1, pruned, n_kept.gather(1, nearest))
        draft.tensors["nearest_kept_cosine"] = cosines.scatter(1, pruned, cosine)

    @property
    def _stepwise(self) -> bool:
        return self.plan.recipe is not None

    def _scores(self, layer: int) -> bool:
        return self._stepwise and self.above_target and layer <= self.plan.last_prune

    def _score(self, inputs: LayerInputs) -> dict[str, Tensor]:
        assert self.plan.cut is not None
        assert self.plan.recipe is not None
        variant, groups = self.plan.cut.variant, self._groups()
        weighed = criteria(inputs.query, inputs.key, inputs.value, inputs.scaling, variant, self.plan.proxy)
        self.shares = group_mean(weighed.relation, groups) * self.plan.patches_per_token
        score = self._weigh(weighed)
        past = self.cumulative if self.plan.recipe.cumulative else None
        self.cumulative = accumulate(past, group_mean(score, groups))
        shares = {"relation": weighed.relation, "semantic": weighed.semantic}
        return {**shares, "score": score, "cumulative": ungroup(self.cumulative, groups)}

    def _weigh(self, weighed: Criteria) -> Tensor:
        """float32 [b, N], the score of single patches."""
        assert self.plan.recipe is not None
        if not self.plan.recipe.multi_criteria:
            return weighed.relation
        return weighed.relation * weighed.norm if self.plan.as_own_release else weighed.score

    def _flow(self, inputs: LayerInputs) -> dict[str, Tensor]:
        places, proxy = (self.kept_ids, self.grid_cols), self.plan.proxy
        statistics = stream_statistics(
            inputs.query, inputs.key, inputs.scaling, *places, self.plan.matrices, proxy=proxy, windows=inputs.windows
        )
        similarity = cls_logits(inputs.value, inputs.value, 1.0, proxy).softmax(dim=-1).mean(dim=1)
        return {
            **{name: tensor for name, tensor in vars(statistics).items() if tensor is not None},
            "cls_row": cls_logits(inputs.query, inputs.key, inputs.scaling, proxy).softmax(dim=-1),
            "value_norm": value_norm(inputs.value),
            "head_value_norm": head_value_norm(inputs.value),
            "similarity": similarity,
            "hidden_norm": inputs.hidden.float().norm(dim=-1),
        }

    def _step(self, layer: int) -> Tensor:
        """One of FlowCut's prune points: how many by entropy, or as many at each; which by the cumulative score."""
        assert self.target is not None
        assert self.cumulative is not None
        assert self.plan.recipe is not None
        target, before, size = self.target, self.tokens, self.plan.patches_per_token
        remaining = self.plan.last_prune - layer
        ratio = requested = np.full(len(self.kept_ids), np.nan)
        after = target
        if remaining > 0:
            if self.plan.recipe.adaptive:
                ratio = self._entropy_ratio(layer)
                requested = np.array([requested_count(float(e), before, target, remaining) for e in ratio])
            else:
                requested = np.full(len(self.kept_ids), equal_count(before, target, remaining))
            after = kept_after(float(requested.max()), before, target)
        self.steps.append(StepDraft(layer, before * size, after * size, remaining == 0, ratio, requested))
        return self._keep(layer, highest(self.cumulative, after))

    def _entropy_ratio(self, layer: int) -> np.ndarray:
        assert self.shares is not None
        ratio = entropy_ratio(self.shares).numpy()
        if not np.isfinite(ratio).all():
            raise FlowCutError(
                f"The attention of vision layer {layer} holds values that are not numbers: "
                "check the picture's pixel values, or load the model in float32 or bfloat16."
            )
        return ratio

    def _keep(self, layer: int, kept: Tensor) -> Tensor:
        """Follow a cut by score: C goes with its tokens, the draft learns cut-off and margins."""
        assert self.cumulative is not None
        kept_scores = self.cumulative.gather(1, kept)
        cutoff = kept_scores.amin(dim=1)
        margin = ungroup(self.cumulative - cutoff[:, None], self._groups())
        self.layers[-1].tensors.update(cutoff=cutoff, margin=margin)
        self.cumulative = kept_scores
        return self._note_pruned(layer, kept)

    def _cut_at_once(self, layer: int) -> Tensor:
        """A one-shot method's cut, at the feature layer."""
        cut, method, size = self.plan.cut, self.plan.method, self.plan.patches_per_token
        assert cut is not None
        assert method is not None
        assert self.target is not None
        if size > 1 and {"keys", "features"} & set(method.needs):
            raise InvalidCut(f"{method.label} compares single patches, and squares of them are cut here.")
        batch, before, device = len(self.kept_ids), self.tokens, self.kept_ids.device
        found: dict[str, Any] = {name: tensor.cpu().double().numpy() for name, tensor in self.evidence.items()}
        cls, grid_cols = self.plan.cls_goes_on, self.grid_cols // self.plan.merge_side
        evidence = Evidence(batch, before, **found, grid_cols=grid_cols, with_cls=cls)
        cut = replace(cut, tokens=self.target - (1 if cls else 0))
        ranking = method.ranking(evidence, cut)
        kept = torch.from_numpy(highest_ranked(ranking, cut.tokens)).to(device)
        if method.joins is not None:
            self.joins = self._places(torch.from_numpy(method.joins(evidence, cut, ranking)).to(device), kept)
        self.ranks = ungroup(torch.from_numpy(ranking), self._groups().cpu()) if method.ranks else None
        nothing = np.full(batch, np.nan)
        self.steps.append(StepDraft(layer, before * size, cut.tokens * size, True, nothing, nothing))
        positions = self._note_pruned(layer, kept)
        if not cls or method.behind is None:
            return positions
        return self._in_order(positions, torch.from_numpy(method.behind(ranking)).to(device).gather(1, kept))

    def _in_order(self, kept: Tensor, behind: Tensor) -> Tensor:
        """The positions kept, [b, T], those `behind` after the others; ids and joins of the prune group follow."""
        order = behind.long().argsort(dim=1, stable=True)
        self.kept_ids = self.kept_ids.gather(1, order)
        if self.joins is not None:
            joined = order.argsort(dim=1).gather(1, self.joins.clamp_min(0))
            self.joins = joined.where(self.joins >= 0, -1)
        return kept.gather(1, order)

    def _places(self, joined: Tensor, kept: Tensor) -> Tensor:
        """int64 [b, N], patch ids as places among the kept, [b, T] ascending; -1 stays -1."""
        return torch.searchsorted(kept, joined.clamp_min(0)).where(joined >= 0, -1)

    def _note_pruned(self, layer: int, kept_tokens: Tensor) -> Tensor:
        """Note when patches were pruned; the kept tokens' patches by their places before, in spatial order."""
        groups, chosen = self._groups(), kept_tokens.to(self.kept_ids.device)[..., None]
        kept = groups.gather(1, chosen.expand(-1, -1, groups.shape[-1])).flatten(1).sort(dim=1).values
        left = self.kept_ids.gather(1, kept)
        is_kept = torch.zeros_like(self.pruned_at, dtype=torch.bool).scatter_(1, left, True)
        self.pruned_at[~is_kept & (self.pruned_at < 0)] = layer
        self.kept_ids = left
        return kept
