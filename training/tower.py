"""Stage 1: the vision tower learns to say, in every patch of an object, what and where that object is.

Dense targets (shape, colour, size, text, small print, offset to the object's centre, own place) at the patches of the
feature layer and, for its own sake, of the last one. CLS, as in CLIP, learns at the last layer from the caption: which
of its words the description of the picture holds (`--cls caption`). Two other ways are kept as ablations: nothing
(`none`), and counts at the feature layer (`counts`), which asks CLS to find every object.

The first part (`--windows`) shows squares of the pictures: attention is cheap there, and every patch keeps its
neighbours. Then come whole pictures and, half of the time, any share of their patches.

    python -m training.tower --minutes 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from flowcut_lens.scenes.world import BAR, COLOURS, SIDE
from training import cache, loop
from training.cache import FIELD_VALUES, FORMS, PLACE, TEXTS
from training.config import VISION
from training.dropping import DROPPINGS
from training.half import attend_fast, half
from training.initial import initialise
from training.loop import Batch, Loop, Optimisers

IMAGE_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).repeat(cache.PATCH**2)
IMAGE_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).repeat(cache.PATCH**2)
COUNT_CLASSES = 4
"""A count per shape or colour is told apart up to 3 and more."""


CLS_TARGETS = ("caption", "counts", "none")
CAPTION_WORDS = {"shape": len(FORMS), "colour": len(COLOURS), "text": len(TEXTS)}
"""What a caption may name; words in small print count as texts."""
LAST_LAYER_WEIGHT = 0.3
CACHES = (Path("training/cache/world"), Path("training/cache/crowded"))


class PatchHeads(nn.Module):
    """Linear read-outs used in training only: what a patch's object is and where."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.present = nn.Linear(width, 1)
        self.classes = nn.Linear(width, sum(len(values) for values in FIELD_VALUES.values()))
        self.geometry = nn.Linear(width, 4)
        self.column = nn.Linear(width, 3)
        self.row = nn.Linear(width, 3)
        self.centre = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits by target, from patches [B, K, D]."""
        x = self.norm(tokens)
        named = zip(
            FIELD_VALUES, self.classes(x).split([len(one) for one in FIELD_VALUES.values()], dim=-1), strict=True
        )
        others = {name: getattr(self, name)(x) for name in ("present", "geometry", "column", "row", "centre")}
        return {**dict(named), **others}


class DenseHeads(nn.Module):
    """All read-outs of the tower used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches, self.last_patches = PatchHeads(width), PatchHeads(width)
        self.cls_norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, sum(CAPTION_WORDS.values()))
        self.total = nn.Linear(width, cache.MAX_OBJECTS + 1)
        self.shape_counts = nn.Linear(width, len(FORMS) * COUNT_CLASSES)
        self.colour_counts = nn.Linear(width, len(COLOURS) * COUNT_CLASSES)


def to_input(patches: Tensor) -> Tensor:
    """uint8 [..., 588] -> normalised float32, as the image processor does it."""
    return (patches.float() / 255 - IMAGE_MEAN.to(patches.device)) / IMAGE_STD.to(patches.device)


def embed(tower: CLIPVisionModel, patches: Tensor, patch_ids: Tensor) -> Tensor:
    """Hidden states [B, 1 + K, D] before the first layer, for K chosen patches of each picture.

    patches: uint8 [B, K, 588] (row, column, channel); patch_ids: int64 [B, K]. Equals the stock embeddings, which
    take whole pictures.
    """
    embeddings = tower.embeddings
    kernel = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).reshape(-1, patches.shape[-1])
    tokens = F.linear(to_input(patches), kernel) + embeddings.position_embedding.weight[patch_ids + 1]
    cls = (embeddings.class_embedding + embeddings.position_embedding.weight[0]).expand(len(patches), 1, -1)
    return tower.pre_layrnorm(torch.cat((cls, tokens), dim=1))


def features(tower: CLIPVisionModel, patches: Tensor, patch_ids: Tensor) -> Tensor:
    """hidden_states[-2] of the chosen patches, CLS first: [B, 1 + K, D]."""
    hidden = embed(tower, patches, patch_ids)
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden


def last_layer(tower: CLIPVisionModel, hidden: Tensor) -> Tensor:
    """The last layer's output from that of the feature layer; nothing but CLIP's own target reads it."""
    last: Tensor = tower.encoder.layers[-1](hidden, attention_mask=None)
    return last


class Sampler:
    """Batches of scenes with some of their patches; which, says the dropping."""

    def __init__(self, folders: Sequence[Path], seed: int, dropping: str = "uniform") -> None:
        self.rng, self.shards = np.random.default_rng(seed), [one for folder in folders for one in cache.shards(folder)]
        self.count, self._choose = DROPPINGS[dropping]
        if not self.shards:
            named = ", ".join(map(str, folders))
            raise SystemExit(f"There are no scenes in {named}: draw some first with python -m training.cache.")

    def batch(self, size: int, tokens: int, pixels: bool = True) -> Batch:
        """So many scenes with so many patches of each."""
        picks = []
        for _ in range(size):
            shard = self.shards[int(self.rng.integers(len(self.shards)))]
            picks.append((shard, int(self.rng.integers(len(shard.owner)))))
        owners = [np.asarray(shard.owner[row]) for shard, row in picks]
        ids = [self._choose(self.rng, tokens, owner) for owner in owners]
        shown = [owner[chosen] for owner, chosen in zip(owners, ids, strict=True)]
        batch = {
            "patch_ids": torch.from_numpy(np.stack(ids)),
            "owner": torch.from_numpy(np.stack(shown).astype(np.int64)),
            "objects": torch.from_numpy(np.stack([shard.objects[row] for shard, row in picks])),
            "seen": torch.from_numpy(np.stack([_seen(*pair) for pair in zip(shown, owners, strict=True)])),
        }
        if pixels:
            patches = [shard.patches[row][chosen] for (shard, row), chosen in zip(picks, ids, strict=True)]
            batch["patches"] = torch.from_numpy(np.stack(patches))
        return {name: value.to(loop.device()) for name, value in batch.items()}


def _seen(shown: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """[11] share of each object's patches that are shown; 0 for objects that are not there."""
    parts, whole = (np.bincount(ids[ids >= 0], minlength=cache.MAX_OBJECTS) for ids in (shown, owner))
    return np.asarray(parts / np.maximum(whole, 1), np.float32)


def stand_ins(owner: Tensor, distance: Tensor) -> Tensor:
    """[B, K] True at the one shown patch of each object that lies nearest its centre.

    One patch that stands for its object lets CLS, and the language model after it, count objects rather than patches.
    """
    chosen = torch.zeros_like(owner, dtype=torch.bool)
    for number in range(cache.MAX_OBJECTS):
        mine = owner == number
        nearest = distance.masked_fill(~mine, torch.inf).argmin(dim=1, keepdim=True)
        chosen |= torch.zeros_like(chosen).scatter_(1, nearest, mine.any(dim=1, keepdim=True))
    return chosen


def patch_targets(batch: Batch) -> Batch:
    """What each patch should say. Class numbers are -100 (ignored) where no object or no text is."""
    owner, objects = batch["owner"], batch["objects"]
    table = torch.gather(objects, 1, owner.clamp(min=0)[..., None].expand(-1, -1, objects.shape[-1]))
    is_object = owner >= 0
    classes = torch.where(is_object[..., None] & (table >= 0), table, -100.0)
    row, col = batch["patch_ids"] // cache.ROWS + 0.5, batch["patch_ids"] % cache.ROWS + 0.5
    centre = table[..., PLACE]
    offset = centre / cache.PATCH - torch.stack((col, row), dim=-1)
    place = torch.stack((col, row), dim=-1) / (cache.ROWS / 2) - 1
    thirds = (centre * 3 / SIDE).nan_to_num(0).long().clamp(0, 2).masked_fill(~is_object[..., None], -100)
    return {
        **{name: classes[..., number].long() for number, name in enumerate(FIELD_VALUES)},
        "present": is_object.float(),
        "column": thirds[..., 0],
        "row": thirds[..., 1],
        "centre": stand_ins(owner, offset.norm(dim=-1)).float(),
        "geometry": torch.cat((torch.where(is_object[..., None], offset / 3, 0.0), place), dim=-1),
    }


def count_targets(objects: Tensor) -> Batch:
    """Counts over the whole picture: total [B], per shape [B, 9], per colour [B, 8]; of all that lies on the table."""
    there = objects[..., 0].isfinite() & (objects[..., 0] != FORMS.index(BAR))
    shape = F.one_hot(objects[..., 0].nan_to_num(0).long(), len(FORMS)) * there[..., None]
    colour = F.one_hot(objects[..., 1].nan_to_num(0).long(), len(COLOURS)) * there[..., None]
    most = COUNT_CLASSES - 1
    return {
        "total": there.sum(dim=1),
        "shape_counts": shape.sum(dim=1).clamp(max=most),
        "colour_counts": colour.sum(dim=1).clamp(max=most),
    }


def caption_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """[B, W] which words the caption of what is shown holds, and which of them are asked for.

    An object counts where at least half of its patches are shown; what is less than half shown is not asked for.
    """
    objects, seen = batch["objects"], batch["seen"]
    columns = {name: number for number, name in enumerate(FIELD_VALUES)}
    named = [_named(objects, columns[name], count) for name, count in CAPTION_WORDS.items()]
    small = _named(objects, columns["small_print"], len(FIELD_VALUES["small_print"]))
    named[-1][..., -small.shape[-1] :] |= small
    words = torch.cat(named, dim=-1)
    held = (words & (seen >= 0.5)[..., None]).any(dim=1)
    unsure = (words & ((seen > 0) & (seen < 0.5))[..., None]).any(dim=1)
    return held, held | ~unsure


def _named(objects: Tensor, column: int, count: int) -> Tensor:
    """[B, O, count] one True where the object says so much, none where it says nothing."""
    said = objects[..., column].nan_to_num(-1).long()
    return F.one_hot(said.clamp(min=0), count).bool() & (said >= 0)[..., None]


def losses(heads: DenseHeads, hidden: Tensor, batch: Batch) -> tuple[Batch, dict[str, float]]:
    """Loss and accuracy of every read-out at the patches of the feature layer."""
    return _patch_losses(heads.patches(hidden[:, 1:].float()), patch_targets(batch))


def last_losses(heads: DenseHeads, last: Tensor, batch: Batch) -> Batch:
    """The same read-outs at the patches of the last layer, with a smaller weight."""
    parts, _ = _patch_losses(heads.last_patches(last[:, 1:].float()), patch_targets(batch))
    return {f"last_{name}": LAST_LAYER_WEIGHT * part for name, part in parts.items()}


def cls_losses(
    target: str, heads: DenseHeads, hidden: Tensor, last: Tensor, batch: Batch
) -> tuple[Batch, dict[str, float]]:
    """What CLS is asked: the caption's words at the last layer, or counts at the feature layer, or nothing."""
    if target == "caption":
        return _caption_losses(heads.words(heads.cls_norm(last[:, 0].float())), *caption_targets(batch))
    if target == "counts":
        return _count_losses(heads, heads.cls_norm(hidden[:, 0].float()), count_targets(batch["objects"]))
    return {}, {}


def _caption_losses(logits: Tensor, held: Tensor, asked: Tensor) -> tuple[Batch, dict[str, float]]:
    loss = F.binary_cross_entropy_with_logits(logits, held.float(), reduction="none")[asked].sum() / len(logits)
    said = (logits > 0) & asked
    right = (said & held).sum()
    figures = {
        "cls_precision": float(right / said.sum().clamp(min=1)),
        "cls_recall": float(right / (held & asked).sum().clamp(min=1)),
    }
    return {"words": 0.5 * loss}, figures


def _patch_losses(logits: Batch, target: Batch) -> tuple[Batch, dict[str, float]]:
    parts: Batch = {}
    figures: dict[str, float] = {}
    parts["present"] = F.binary_cross_entropy_with_logits(logits["present"].squeeze(-1), target["present"])
    centre = logits["centre"].squeeze(-1)
    parts["centre"] = 4 * F.binary_cross_entropy_with_logits(centre, target["centre"])
    figures["centre"] = float((centre > 0)[target["centre"] > 0].float().mean())
    for name in (*FIELD_VALUES, "column", "row"):
        wanted = target[name].flatten()
        found = logits[name].flatten(0, 1)[wanted >= 0]
        if len(found):
            parts[name] = F.cross_entropy(found, wanted[wanted >= 0])
            figures[name] = float((found.argmax(-1) == wanted[wanted >= 0]).float().mean())
    off = (logits["geometry"] - target["geometry"]) * torch.cat(
        (target["present"][..., None].expand(-1, -1, 2), torch.ones_like(target["geometry"][..., 2:])), dim=-1
    )
    parts["geometry"] = F.smooth_l1_loss(off, torch.zeros_like(off), beta=0.1) * 4
    figures["offset_patches"] = float(
        off[..., :2].detach().abs().sum() / (2 * target["present"].sum().clamp(min=1)) * 3
    )
    return parts, figures


def _count_losses(heads: DenseHeads, cls: Tensor, target: Batch) -> tuple[Batch, dict[str, float]]:
    parts: Batch = {}
    figures: dict[str, float] = {}
    for name, counts in target.items():
        logits = getattr(heads, name)(cls).unflatten(
            -1, (-1, COUNT_CLASSES if name != "total" else cache.MAX_OBJECTS + 1)
        )
        parts[name] = F.cross_entropy(logits.flatten(0, 1), counts.flatten()) * 0.5
        figures[name] = float((logits.argmax(-1) == counts.view(len(cls), -1)).float().mean())
    return parts, figures


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tower, heads = CLIPVisionModel(VISION), DenseHeads(VISION.hidden_size)
    initialise(tower, arguments.seed)
    attend_fast(tower)
    for module in (tower, heads):
        nn.Module.to(module, loop.device())
    optimisers = Optimisers([(tower, 1.0), (heads, 1.0)], arguments.rate)
    stage = Loop(arguments.run / "tower.safetensors", {"tower": tower, "heads": heads}, optimisers, arguments.minutes)
    stage.resume()
    windows, pictures = (
        Sampler(arguments.cache, arguments.seed + stage.step, dropping) for dropping in ("window", arguments.dropping)
    )

    def step(progress: float) -> tuple[Tensor, dict[str, float]]:
        sampler = windows if progress < arguments.windows else pictures
        tokens = sampler.count(sampler.rng)
        batch = sampler.batch(max(2, arguments.batch * 144 // max(tokens, 144)), tokens)
        with half():
            hidden = features(tower, batch["patches"], batch["patch_ids"])
            last = last_layer(tower, hidden)
        parts, figures = losses(heads, hidden, batch)
        asked, cls_figures = cls_losses(arguments.cls, heads, hidden, last, batch)
        parts |= asked | last_losses(heads, last, batch)
        return torch.stack(list(parts.values())).sum(), {**figures, **cls_figures}

    stage.run(step)


def more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--windows", type=float, default=0.55, help="share of the training that shows windows")
    parser.add_argument("--dropping", choices=sorted(DROPPINGS), default="uniform", help="what is shown afterwards")
    parser.add_argument("--cls", choices=CLS_TARGETS, default="caption", help="what CLS learns")


if __name__ == "__main__":
    train(loop.arguments(__doc__ or "", minutes=200, batch=24, rate=2e-3, more=more_arguments, cache=CACHES))
