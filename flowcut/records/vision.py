"""FlowRecord: what one pass through a vision encoder showed, and its file. Needs numpy and safetensors, no torch.

Index spaces: *patch ids* count from 0 on the patch grid in reading order, CLS not counted; -1 in an id array is CLS.
The *token axis* (length N+1) has CLS first, then the N patches kept so far, in spatial order. Where a batch was cut per
image, rows may be of unequal length: shorter ones are padded at the end with id -2 and NaN; `FlowRecord.image(b)`
gives one image alone, without padding.

An encoder without a CLS token has a *proxy* in CLS's place (`FlowRecord.relay` says which): per head, the mean over
patches of the query (after rotary embedding) and of the value. It is token 0 and id -1 all the same. It has no key, so
that nothing can attend to it: its own entry in `cls_row`, all of `cls_column`, its `received_mass` and `similarity` are
0, and nobody is its destination (id -2). Its query is our own and not the model's, so that `received_mass`,
`row_entropy`, `attention_distance` and the destinations are those of the N patches' queries. Where a layer attends
within windows, patches do so in the record too; the proxy always attends to the full picture.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowcut.cut import CutConfig, stored_cut
from flowcut.ids import CLS_ID as CLS_ID
from flowcut.ids import PADDING_ID as PADDING_ID
from flowcut.records.display import html_masks, html_table, kept_grid, one_line
from flowcut.records.geometry import Geometry as Geometry
from flowcut.records.old_names import NAMES_OF_VERSION_2 as NAMES_OF_VERSION_2
from flowcut.records.tensor_file import json_numbers, read_file, renamed, write_file

FORMAT = "flowcut-record"
FORMAT_VERSION = 4
READ_VERSIONS = (2, 3, 4)
LAYER_KEY = "layer.{layer:03d}.{field}"


@dataclass(frozen=True, eq=False)
class PruneStep:
    """One prune point that was reached, also where nothing was pruned."""

    layer: int
    """Vision layer (from 0) after which patches were pruned."""
    kept_before: int
    """Patches kept before it, CLS not counted; where images are cut apart: the most of any image."""
    kept_after: int
    """Patches kept after it; where images are cut apart: the most of any image."""
    requested: int | None
    """Patches (or groups that become one token) that entropy requested to remove, the batch's most; None: clamped."""
    clamped: bool
    """True where the count was set to the target, not requested by entropy."""
    entropy_ratio: np.ndarray
    """float64 [B], E = H(relation shares) / ln N in [0, 1]; NaN where clamped."""
    requested_per_image: np.ndarray
    """float64 [B], each image's own count before rounding; NaN where clamped."""
    kept_before_per_image: np.ndarray
    """int64 [B]."""
    kept_after_per_image: np.ndarray
    """int64 [B]."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class LayerFlow:
    """The flow of information through one vision layer, taken inside it (from its input), before its cut if any."""

    layer: int
    """Vision layer, from 0."""
    patch_ids: np.ndarray
    """int64 [B, N], the patches kept up to the layer's input."""
    cls_row: np.ndarray
    """float32 [B, H, N+1], attention that CLS pays to each token: what the relay gathers. Sums to 1."""
    cls_column: np.ndarray
    """float32 [B, H, N+1], attention that each token pays to CLS: what the relay hands back."""
    received_mass: np.ndarray
    """float32 [B, N+1], head-mean attention that a token receives, summed over all N+1 queries, so that it sums to N+1
    (with a proxy: over N queries, to N)."""
    row_entropy: np.ndarray
    """float32 [B, H], entropy of a query's attention over the N+1 tokens in nats, mean over queries."""
    attention_distance: np.ndarray
    """float32 [B, H], mean distance on the grid, in patches, from a patch to what it attends to; CLS left out."""
    value_norm: np.ndarray
    """float32 [B, N+1], L1 norm of the head-mean value vector (w is `value_norm[:, 1:]`)."""
    similarity: np.ndarray
    """float32 [B, N+1], head-mean of softmax(v_cls . v), no scaling: how much a token's value is like CLS's."""
    hidden_norm: np.ndarray
    """float32 [B, N+1], L2 norm of each token at the layer's input; outliers are registers."""
    top_source_ids: np.ndarray
    """int64 [B, N+1, 4], the tokens that each token attends to most (head mean), strongest first; -1 is CLS, -2 that
    there is none."""
    top_source_weights: np.ndarray
    """float32 [B, N+1, 4], head-mean attention paid to them."""
    top_destination_id: np.ndarray
    """int64 [B, N+1], the token that attends to this one most (head mean); -1 is CLS, -2 none."""
    top_destination_weight: np.ndarray
    """float32 [B, N+1], the head-mean attention it pays."""
    scored: bool
    """Whether FlowCut scored this layer; if not, the next six are None."""
    relation: np.ndarray | None = None
    """float32 [B, N], a^: share of the CLS row, patches alone; sums to 1."""
    semantic: np.ndarray | None = None
    """float32 [B, N], s^: share of the value similarity to CLS, patches alone; sums to 1."""
    score: np.ndarray | None = None
    """float32 [B, N], S = (a^ + s^) w of this layer alone."""
    cumulative: np.ndarray | None = None
    """float32 [B, N], C: S at the first scored layer, then 0.5 C + 0.5 S; before the cut of this layer. Patches that
    are cut as a group share the mean of its scores."""
    cutoff: np.ndarray | None = None
    """float32 [B], C of the weakest patch that was kept, where this layer was a prune point."""
    margin: np.ndarray | None = None
    """float32 [B, N], C - cutoff: negative for pruned patches, by how far they were below it."""
    step: PruneStep | None = None
    """The prune point after this layer, where there is one."""
    nearest_kept_id: np.ndarray | None = None
    """int64 [B, N], for each patch pruned after this layer the nearest kept patch: of those kept, the one whose value
    vector in this layer (all heads joined) has the highest cosine with its own; -2 for kept patches. None where the
    layer is no prune point, and in records made before this was recorded."""
    nearest_kept_cosine: np.ndarray | None = None
    """float32 [B, N], that cosine; NaN for kept patches."""
    head_mean: np.ndarray | None = None
    """float16 [B, N+1, N+1], head-mean attention of each query (second axis) to each token; only on request."""
    received_by_head: np.ndarray | None = None
    """float16 [B, H, N+1], `received_mass` of each head; its mean over heads is `received_mass`. None in records that
    were written before it was taken."""
    head_value_norm: np.ndarray | None = None
    """float32 [B, N+1], L1 norm of each head's own value vector, mean over heads. None in files before version 4."""

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class FlowRecord:
    """All that one run of a vision encoder over a batch of pictures left behind."""

    layers: tuple[LayerFlow, ...]
    """One per vision layer that ran, in order; empty where only the cut was wanted, not the recording."""
    steps: tuple[PruneStep, ...]
    """Every prune point reached, in order."""
    kept_patch_ids: np.ndarray
    """int64 [B, T * patches_per_token], patches that left the encoder, in spatial order."""
    pruned_at_layer: np.ndarray
    """int64 [B, N0], the layer after which each patch of the grid was pruned; -1: kept."""
    n_patches: int
    """N0, patches that entered the encoder; of pictures of unequal size, those of the largest."""
    n_layers: int
    n_heads: int
    feature_layer: int
    """The layer (from 0) whose output the model reads; LLaVA: n_layers - 2. Of several the first: cuts end there."""
    cut: CutConfig | None
    """The cut as given; None: recorded only."""
    model_id: str | None = None
    revision: str | None = None
    family: str | None = None
    dtype: str | None = None
    """The model's own, such as `float16`; scores are taken in float32 whatever it is."""
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Library name to version."""
    notes: tuple[str, ...] = ()
    """What a reader must know, one sentence each."""
    differs_from_release: tuple[str, ...] = ()
    """Where this run did something else than the released FlowCut code would have, and why, one sentence each."""
    relay: str = "cls"
    """What stands at token 0: `cls`, the encoder's own token, or `proxy`, the mean query and value of its patches."""
    patches_per_token: int = 1
    """Patches that are kept or cut together and become one token of the language model; the budget counts these."""
    geometries: tuple[Geometry, ...] = ()
    """From patches to the original picture, one for each of the B rows; empty where the picture is not known."""
    read_layer: int | None = None
    """The deepest layer (from 0) whose output the model reads; None in files before version 4."""
    unread: str | None = None
    """Why the vision encoder was not read, one sentence; None: it was. Then there are no layers, `relay` is `none`, and
    each row is a prompt, whose patches are its visual tokens behind the projector."""

    __repr__ = one_line

    def _repr_html_(self) -> str:
        """For notebooks: the masks, one for each picture, tile or frame, beside what was done."""
        return html_table(self.shown_facts(), self.shown_masks())

    def shown_facts(self) -> dict[str, str]:
        """What a notebook says of this record, by name; empty text where there is nothing to say."""
        removed = "; ".join(f"after layer {s.layer}: {s.kept_before} to {s.kept_after}" for s in self.steps)
        kept = " + ".join(str(count) for count in (self.kept_patch_ids >= 0).sum(axis=1))
        return {
            "Cut": "none, recorded only" if self.cut is None else self.cut.title,
            "Patches": f"{kept} kept, of {self.n_patches}" + (" in each view" if self.batch > 1 else ""),
            "Prune points": removed,
            "Layers recorded": f"{len(self.layers)} of {self.n_layers}, {self.n_heads} heads each",
            "Model": ", ".join(text for text in (self.model_id, self.family, self.dtype, self.device) if text),
            "Notes": "\n".join((*self.notes, *self.differs_from_release)),
        }

    def shown_masks(self, kept_patch_ids: np.ndarray | None = None) -> str:
        """HTML of the masks, empty where the grid is not known.

        Args:
            kept_patch_ids: int64 [T], patches to show as kept in a record of one picture; None: the record's own.
        """
        if self.unread is not None and not self.geometries:
            return ""  # a square number of tokens need not be a square of the picture
        shown = self.kept_patch_ids if kept_patch_ids is None else kept_patch_ids[None]
        masks = []
        for row, ids in enumerate(shown):
            geometry = self.geometries[row] if self.geometries else None
            grid = None if geometry is None else (geometry.grid_rows, geometry.grid_cols)
            n_patches = int((self.pruned_at_layer[row] != PADDING_ID).sum())
            kept = kept_grid(ids, grid, n_patches)
            if kept is not None:
                masks.append(("picture" if geometry is None else geometry.view, kept))
        return html_masks(masks)

    @property
    def last_read_layer(self) -> int:
        """The deepest layer that reaches the answer: what lies behind it is not read by the language model."""
        return self.feature_layer if self.read_layer is None else self.read_layer

    @property
    def geometry(self) -> Geometry | None:
        """That of the first row: all there is for a record of one picture."""
        return self.geometries[0] if self.geometries else None

    @property
    def relay_name(self) -> str:
        """What titles and legends call token 0: `CLS`, or `CLS proxy` where the encoder has no such token."""
        return "CLS" if self.relay == "cls" else "CLS proxy"

    @property
    def batch(self) -> int:
        """B, pictures in this record."""
        return int(self.kept_patch_ids.shape[0])

    def image(self, batch_index: int) -> FlowRecord:
        """The record of one picture of the batch, B = 1, rows cut to its own length.

        Raises:
            IndexError: no such picture in the batch.
        """
        if not 0 <= batch_index < self.batch:
            raise IndexError(f"Picture {batch_index} is not in this record of {self.batch}.")
        rows = slice(batch_index, batch_index + 1)
        # A picture that had reached its target before its neighbours met no more prune points.
        target = int((self.kept_patch_ids[batch_index] != PADDING_ID).sum())
        steps = tuple(_step_of_image(s, rows) for s in self.steps if s.kept_before_per_image[batch_index] > target)
        reached = {step.layer: step for step in steps}
        layers = tuple(_layer_of_image(layer, rows, reached.get(layer.layer)) for layer in self.layers)
        kept, pruned_at = self.kept_patch_ids[rows, :target], self.pruned_at_layer[rows]
        pruned_at = pruned_at[:, pruned_at[0] != PADDING_ID]
        return replace(
            self,
            layers=layers,
            steps=steps,
            kept_patch_ids=kept,
            pruned_at_layer=pruned_at,
            n_patches=pruned_at.shape[1],
            geometries=self.geometries[rows],
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record to one file, whole or not at all; returns its path."""
        return write_file(Path(path), FORMAT, FORMAT_VERSION, _facts(self), _arrays(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlowRecord:
        """Read a record written by `save`.

        Raises:
            InvalidRecord: one sentence where the file is missing, is no record, is damaged or of another version.
        """
        return _from_facts(*read_file(Path(path), FORMAT, READ_VERSIONS))


def _layer_of_image(layer: LayerFlow, rows: slice, step: PruneStep | None) -> LayerFlow:
    n_kept = int((layer.patch_ids[rows] != PADDING_ID).sum())
    changed: dict[str, Any] = {}
    for name in _array_fields(layer):
        array = getattr(layer, name)[rows]
        if name in PER_PATCH:
            array = array[:, :n_kept]
        elif name in PER_TOKEN:
            array = array[:, : n_kept + 1]
        elif name in PER_HEAD_TOKEN:
            array = array[:, :, : n_kept + 1]
        elif name == "head_mean":
            array = array[:, : n_kept + 1, : n_kept + 1]
        changed[name] = array
    if step is None:  # another picture's prune point
        changed.update(dict.fromkeys(NEAREST_KEPT_FIELDS))
    # A picture that had reached its target was carried along, not scored.
    scored = layer.scored and not bool(np.isnan(changed["cumulative"]).all())
    if layer.scored and not scored:
        changed.update(dict.fromkeys(SCORE_FIELDS))
    return replace(layer, step=step, scored=scored, **changed)


def _step_of_image(step: PruneStep, rows: slice) -> PruneStep:
    requested_raw = step.requested_per_image[rows]
    coupled = len(np.unique(step.kept_after_per_image)) == 1
    own_requested = None if step.clamped or np.isnan(requested_raw[0]) else round(float(requested_raw[0]))
    return replace(
        step,
        kept_before=int(step.kept_before_per_image[rows][0]),
        kept_after=int(step.kept_after_per_image[rows][0]),
        requested=step.requested if coupled else own_requested,
        entropy_ratio=step.entropy_ratio[rows],
        requested_per_image=requested_raw,
        kept_before_per_image=step.kept_before_per_image[rows],
        kept_after_per_image=step.kept_after_per_image[rows],
    )


PER_PATCH = {
    "patch_ids", "relation", "semantic", "score", "cumulative", "margin", "nearest_kept_id", "nearest_kept_cosine",
}  # fmt: skip
PER_TOKEN = {
    "received_mass", "value_norm", "head_value_norm", "similarity", "hidden_norm", "top_source_ids",
    "top_source_weights", "top_destination_id", "top_destination_weight",
}  # fmt: skip
PER_HEAD_TOKEN = {"cls_row", "cls_column", "received_by_head"}
SCORE_FIELDS = ("relation", "semantic", "score", "cumulative", "cutoff", "margin")
NEAREST_KEPT_FIELDS = ("nearest_kept_id", "nearest_kept_cosine")


def _array_fields(item: Any) -> list[str]:
    return [f.name for f in fields(item) if isinstance(getattr(item, f.name), np.ndarray)]


def _arrays(record: FlowRecord) -> dict[str, np.ndarray]:
    arrays = {"kept_patch_ids": record.kept_patch_ids, "pruned_at_layer": record.pruned_at_layer}
    for layer in record.layers:
        for name in _array_fields(layer):
            arrays[LAYER_KEY.format(layer=layer.layer, field=name)] = getattr(layer, name)
    return arrays


def _facts(record: FlowRecord) -> dict[str, Any]:
    """Everything but the arrays, as JSON can hold it."""
    sizes = ("n_patches", "n_layers", "n_heads", "feature_layer", "read_layer", "patches_per_token", "relay")
    plain = (*sizes, "model_id", "revision", "family", "dtype", "device")
    unread = {} if record.unread is None else {"unread": record.unread}
    return {
        **{name: getattr(record, name) for name in plain},
        **unread,
        "versions": record.versions,
        "notes": list(record.notes),
        "differs_from_release": list(record.differs_from_release),
        "cut": None if record.cut is None else record.cut.as_dict(),
        "geometries": [asdict(geometry) for geometry in record.geometries],
        "layers": [{"layer": layer.layer, "scored": layer.scored} for layer in record.layers],
        "steps": [_step_facts(step) for step in record.steps],
    }


def _step_facts(step: PruneStep) -> dict[str, Any]:
    arrays = {name: json_numbers(getattr(step, name)) for name in _array_fields(step)}
    plain = ("layer", "kept_before", "kept_after", "requested", "clamped")
    return {**{name: getattr(step, name) for name in plain}, **arrays}


def _from_facts(facts: dict[str, Any], tensors: dict[str, np.ndarray]) -> FlowRecord:
    tensors = renamed(tensors, NAMES_OF_VERSION_2)
    steps = tuple(_step_from_facts(renamed(step, NAMES_OF_VERSION_2)) for step in facts.pop("steps"))
    step_after = {step.layer: step for step in steps}
    layers = tuple(
        LayerFlow(**{**entry, **_layer_arrays(entry["layer"], tensors), "step": step_after.get(entry["layer"])})
        for entry in facts.pop("layers")
    )
    cut, geometries, notes = facts.pop("cut"), facts.pop("geometries"), tuple(facts.pop("notes"))
    return FlowRecord(
        layers=layers,
        steps=steps,
        kept_patch_ids=tensors["kept_patch_ids"],
        pruned_at_layer=tensors["pruned_at_layer"],
        cut=stored_cut(cut),
        geometries=tuple(Geometry(**renamed(geometry, NAMES_OF_VERSION_2)) for geometry in geometries),
        notes=notes,
        differs_from_release=tuple(facts.pop("differs_from_release", ())),
        **facts,
    )


def _layer_arrays(layer: int, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = LAYER_KEY.format(layer=layer, field="")
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _step_from_facts(facts: dict[str, Any]) -> PruneStep:
    floats = {name: np.array(facts.pop(name), dtype=np.float64) for name in ("entropy_ratio", "requested_per_image")}
    counts = ("kept_before_per_image", "kept_after_per_image")
    integers = {name: np.array(facts.pop(name), dtype=np.int64) for name in counts}
    return PruneStep(**{**facts, **floats, **integers})
