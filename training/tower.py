"""Stage 1: the vision tower learns to say, in every patch of an object, what and where that object is.

Dense targets (shape, colour, size, character, offset to the object's centre, own place) at the feature layer,
and counts at CLS, so that CLS has to gather from the patches. Only some background patches are shown at a time:
most of a picture is table, and attention over fewer tokens is cheaper.

    python -m training.tower --minutes 72                         # goes on from training/runs/tower.safetensors
    python -m training.tower --minutes 80 --tokens 112 256 576    # the same tower, now also with whole pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from flowcut_lens.scenes.world import CHARACTERS, COLOURS, SHAPES, SIDE, SIZES
from training import cache, loop
from training.config import VISION
from training.initial import initialise
from training.loop import Batch, Loop, Optimisers

IMAGE_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).repeat(cache.PATCH**2)
IMAGE_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).repeat(cache.PATCH**2)
COUNT_CLASSES = 4
"""A count per shape or colour is told apart up to 3 and more."""


class DenseHeads(nn.Module):
    """Linear read-outs used in training only: what a patch's object is and where, and what CLS has counted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.cls_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.present = nn.Linear(width, 1)
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.size = nn.Linear(width, len(SIZES))
        self.character = nn.Linear(width, len(CHARACTERS))
        self.geometry = nn.Linear(width, 4)
        self.column = nn.Linear(width, 3)
        self.row = nn.Linear(width, 3)
        self.centre = nn.Linear(width, 1)
        self.total = nn.Linear(width, cache.MAX_OBJECTS + 1)
        self.shape_counts = nn.Linear(width, len(SHAPES) * COUNT_CLASSES)
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


class Sampler:
    """Batches of scenes with a random choice of patches: all that show objects as far as they fit, and some table."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng, self.shards = np.random.default_rng(seed), cache.shards(folder)
        if not self.shards:
            raise SystemExit(f"There are no scenes in {folder}: draw some first with python -m training.cache.")

    def batch(self, size: int, tokens: int, easy: float = 0.0, pixels: bool = True) -> Batch:
        """`easy`: share of pictures that are the one of three with the fewest objects (for the beginning)."""
        picks = []
        for _ in range(size):
            shard = self.shards[int(self.rng.integers(len(self.shards)))]
            candidates = self.rng.integers(len(shard.owner), size=3 if self.rng.random() < easy else 1)
            counts = [int(np.isfinite(shard.objects[c, :, 0]).sum()) for c in candidates]
            picks.append((shard, int(candidates[int(np.argmin(counts))])))
        ids = [self._choose(np.asarray(shard.owner[row]), tokens) for shard, row in picks]
        owner = np.stack([shard.owner[row][chosen] for (shard, row), chosen in zip(picks, ids, strict=True)])
        objects = np.stack([shard.objects[row] for shard, row in picks])
        batch = {
            "patch_ids": torch.from_numpy(np.stack(ids)),
            "owner": torch.from_numpy(owner.astype(np.int64)),
            "objects": torch.from_numpy(objects),
        }
        if pixels:
            patches = [shard.patches[row][chosen] for (shard, row), chosen in zip(picks, ids, strict=True)]
            batch["patches"] = torch.from_numpy(np.stack(patches))
        return {name: value.to(loop.device()) for name, value in batch.items()}

    def _choose(self, owner: np.ndarray, tokens: int) -> np.ndarray:
        """Patch ids, ascending: objects first (up to four fifths of the places), table for the rest."""
        order = self.rng.random(len(owner)) + (owner < 0)
        chosen_objects = np.argsort(order)[: min(int((owner >= 0).sum()), tokens * 4 // 5)]
        table = self.rng.permutation(np.flatnonzero(owner < 0))[: tokens - len(chosen_objects)]
        return np.sort(np.concatenate((chosen_objects, table)))


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
    """What each patch should say. Class numbers are -100 (ignored) where no object or no character is."""
    owner, objects = batch["owner"], batch["objects"]
    table = torch.gather(objects, 1, owner.clamp(min=0)[..., None].expand(-1, -1, objects.shape[-1]))
    is_object = owner >= 0
    classes = torch.where(is_object[..., None], table[..., :4], -100.0)
    character = torch.where(classes[..., 3] >= 0, classes[..., 3], -100.0)
    row, col = batch["patch_ids"] // cache.ROWS + 0.5, batch["patch_ids"] % cache.ROWS + 0.5
    offset = table[..., 4:6] / cache.PATCH - torch.stack((col, row), dim=-1)
    place = torch.stack((col, row), dim=-1) / (cache.ROWS / 2) - 1
    thirds = (table[..., 4:6] * 3 / SIDE).nan_to_num(0).long().clamp(0, 2).masked_fill(~is_object[..., None], -100)
    return {
        "present": is_object.float(),
        "shape": classes[..., 0].long(),
        "colour": classes[..., 1].long(),
        "size": classes[..., 2].long(),
        "character": character.long(),
        "column": thirds[..., 0],
        "row": thirds[..., 1],
        "centre": stand_ins(owner, offset.norm(dim=-1)).float(),
        "geometry": torch.cat((torch.where(is_object[..., None], offset / 3, 0.0), place), dim=-1),
    }


def count_targets(objects: Tensor) -> Batch:
    """Counts over the whole picture: total [B], per shape [B, 7], per colour [B, 8]."""
    there = objects[..., 0].isfinite()
    shape = F.one_hot(objects[..., 0].nan_to_num(0).long(), len(SHAPES)) * there[..., None]
    colour = F.one_hot(objects[..., 1].nan_to_num(0).long(), len(COLOURS)) * there[..., None]
    most = COUNT_CLASSES - 1
    return {
        "total": there.sum(dim=1),
        "shape_counts": shape.sum(dim=1).clamp(max=most),
        "colour_counts": colour.sum(dim=1).clamp(max=most),
    }


def losses(heads: DenseHeads, hidden: Tensor, batch: Batch) -> tuple[Batch, dict[str, float]]:
    """Loss and accuracy of every read-out, at the patches and at CLS."""
    tokens, cls = heads.norm(hidden[:, 1:]), heads.cls_norm(hidden[:, 0])
    patch_parts, patch_figures = _patch_losses(heads, tokens, patch_targets(batch))
    count_parts, count_figures = _count_losses(heads, cls, count_targets(batch["objects"]))
    return {**patch_parts, **count_parts}, {**patch_figures, **count_figures}


def _patch_losses(heads: DenseHeads, tokens: Tensor, target: Batch) -> tuple[Batch, dict[str, float]]:
    parts: Batch = {}
    figures: dict[str, float] = {}
    parts["present"] = F.binary_cross_entropy_with_logits(heads.present(tokens).squeeze(-1), target["present"])
    centre = heads.centre(tokens).squeeze(-1)
    parts["centre"] = 4 * F.binary_cross_entropy_with_logits(centre, target["centre"])
    figures["centre"] = float((centre > 0)[target["centre"] > 0].float().mean())
    for name in ("shape", "colour", "size", "character", "column", "row"):
        wanted = target[name].flatten()
        logits = getattr(heads, name)(tokens).flatten(0, 1)[wanted >= 0]
        if len(logits):
            parts[name] = F.cross_entropy(logits, wanted[wanted >= 0])
            figures[name] = float((logits.argmax(-1) == wanted[wanted >= 0]).float().mean())
    off = (heads.geometry(tokens) - target["geometry"]) * torch.cat(
        (target["present"][..., None].expand(-1, -1, 2), torch.ones_like(target["geometry"][..., 2:])), dim=-1
    )
    parts["geometry"] = F.smooth_l1_loss(off, torch.zeros_like(off), beta=0.1) * 4
    figures["offset_patches"] = float(off[..., :2].detach().abs().sum() / (2 * target["present"].sum()) * 3)
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
    for module in (tower, heads):
        nn.Module.to(module, loop.device())
    optimisers = Optimisers([(tower, 1.0), (heads, 1.0)], arguments.rate)
    stage = Loop(arguments.run / "tower.safetensors", {"tower": tower, "heads": heads}, optimisers, arguments.minutes)
    stage.resume()
    sampler = Sampler(arguments.cache, arguments.seed + stage.step)

    def step(progress: float) -> tuple[Tensor, dict[str, float]]:
        tokens = int(sampler.rng.choice(arguments.tokens))
        size = max(2, arguments.batch * 144 // max(tokens, 144))
        batch = sampler.batch(size, tokens, easy=max(0.0, 0.8 - 4 * progress))
        parts, figures = losses(heads, features(tower, batch["patches"], batch["patch_ids"]), batch)
        return torch.stack(list(parts.values())).sum(), figures

    stage.run(step)


def tokens_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, nargs="+", default=[96, 112, 144], help="patches shown of a picture")


if __name__ == "__main__":
    train(loop.arguments(__doc__ or "", minutes=75, batch=16, rate=2e-3, more=tokens_argument))
