"""Stage 2: the language model learns the language, and to look things up in a picture's tokens, before the tower
is ready.

In place of the tower stands an oracle: for every shown patch the true attributes of its object, blurred as an
unsure tower would blur them, through a small projector. It needs no pixels, so this stage runs beside stage 1.

    python -m training.language --minutes 60       # goes on from training/runs/language.safetensors if it is there
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from flowcut_lens.scenes.askable import LEAST_STEP
from flowcut_lens.scenes.world import SIDE
from training import loop
from training.cache import FIELD_VALUES, PLACE
from training.config import text_config
from training.half import attend_fast, half
from training.loop import Batch, Loop, Optimisers
from training.packing import Packed, Packer, answer_loss
from training.text import special_ids, train_tokenizer
from training.tower import Sampler, patch_targets

CLASSES = {**{name: len(values) for name, values in FIELD_VALUES.items()}, "column": 3, "row": 3}
UNDERSTANDING_WEIGHT = 0.15
BLIND, UNIFORM_SHARE, MOST_TOKENS = ("grid", "uniform"), 0.3, 288
"""Every second row and column of a picture, and three times in ten any of its patches: neither looks at objects."""

ORACLE_WIDTH = sum(CLASSES.values()) + 6


def oracle(batch: Batch, sharpness: float = 5.0, blur: float = 1.3) -> Tensor:
    """[B, K, 112] what a good tower knows of each patch: class probabilities, presence, centre, offset, place."""
    target, parts = patch_targets(batch), []
    for name, count in CLASSES.items():
        known = (target[name] >= 0)[..., None]
        logits = F.one_hot(target[name].clamp(min=0), count) * sharpness
        noisy = logits + blur * torch.randn_like(logits, dtype=torch.float32)
        parts.append(noisy.softmax(dim=-1) * known)
    geometry = target["geometry"] + 0.03 * torch.randn_like(target["geometry"])
    return torch.cat((*parts, target["present"][..., None], target["centre"][..., None], geometry), dim=-1)


def oracle_projector(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(ORACLE_WIDTH, width), nn.GELU(), nn.Linear(width, width))


def fresh_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    model = LlamaForCausalLM(text_config(len(tokenizer), special_ids(tokenizer)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.04 if "embed" in name else weight.shape[1] ** -0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.mul_((2 * model.config.num_hidden_layers) ** -0.5)
    return model


class Understanding(nn.Module):
    """Read-outs used in training only: at each name in a question, which object is meant and where it is; at the
    second of two names, on which side of the first its object lies.

    Questions about two objects are learned very late from their answers alone, because a "yes" says so little about
    what was looked up. Asking for the look-up itself, half way through the decoder, makes them ordinary.
    """

    LAYERS = (2, 3)
    """Hidden states that are asked: after the second and the third decoder layer."""
    COUNTS = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [self.COUNTS, *CLASSES.values(), 2]
        self.read = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(sizes))) for _ in self.LAYERS)
        self.sizes = sizes
        self.side = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    def loss(self, hidden_states: tuple[Tensor, ...], packed: Packed) -> Tensor:
        """Mean over the asked layers; zero where a batch mentions nothing."""
        layers = [hidden_states[number].flatten(0, 1)[packed.mention_rows] for number in self.LAYERS]
        if not len(packed.mention_rows):
            return layers[0].sum() * 0
        each = torch.stack([self._one(read(x), packed) for read, x in zip(self.read, layers, strict=True)]).mean()
        return each + self._side_loss(self.side(layers[-1]), packed)

    @staticmethod
    def _side_loss(logits: Tensor, packed: Packed) -> Tensor:
        """Right of, and below, the object named before: asked where the objects are far enough apart to say."""
        place = packed.mention_objects[:, PLACE]
        step = place - place[packed.mention_before]
        sure = (packed.mention_before >= 0)[:, None] & (step.abs() >= LEAST_STEP)  # NaN is never far enough
        if not sure.any():
            return logits.sum() * 0
        return 2 * F.binary_cross_entropy_with_logits(logits[sure], (step[sure] > 0).float())

    def _one(self, read: Tensor, packed: Packed) -> Tensor:
        count, *attributes, place = read.split(self.sizes, dim=-1)
        total = F.cross_entropy(count, packed.mention_counts.clamp(max=self.COUNTS - 1))
        alone = packed.mention_objects[:, 0].isfinite()
        if not alone.any():
            return total
        table = packed.mention_objects[alone]
        thirds = (table[:, PLACE] * 3 / SIDE).clamp(0, 2.9).floor()
        said = torch.cat((table[:, : PLACE.start], thirds), dim=1).long()
        for logits, wanted in zip(attributes, said.unbind(1), strict=True):
            known = wanted >= 0
            if known.any():
                total = total + F.cross_entropy(logits[alone][known], wanted[known])
        return total + 4 * F.smooth_l1_loss(place[alone], table[:, PLACE] / (SIDE / 2) - 1, beta=0.1)


def answer_logits(model: Any, head: nn.Module, packed: Packed, image_tokens: Tensor) -> Tensor:
    """[A, vocabulary] next-token logits at the answers' places. `model`: a decoder without its head."""
    return read_packed(model, head, packed, image_tokens)[0]


def read_packed(model: Any, head: nn.Module, packed: Packed, image_tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The logits at the answers' places, and all hidden states of the decoder."""
    embeds = model.embed_tokens(packed.ids)
    stop = packed.image_start + image_tokens.shape[1]
    embeds = torch.cat((embeds[:, : packed.image_start], image_tokens, embeds[:, stop:]), dim=1)
    out = model(
        inputs_embeds=embeds,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    logits = head(out.last_hidden_state.flatten(0, 1)[packed.answer_rows])
    return logits.float(), tuple(states.float() for states in out.hidden_states)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.run)
    model = fresh_language_model(tokenizer)
    attend_fast(model)
    nn.Module.to(model, loop.device())
    projector = oracle_projector(model.config.hidden_size).to(loop.device())
    understanding = Understanding(model.config.hidden_size).to(loop.device())
    parts = {"model": model, "projector": projector, "understanding": understanding}
    optimisers = Optimisers([(part, 1.0) for part in parts.values()], arguments.rate)
    stage = Loop(arguments.run / "language.safetensors", parts, optimisers, arguments.minutes)
    stage.resume()
    samplers = [
        Sampler(arguments.cache, arguments.seed + stage.step + number, name) for number, name in enumerate(BLIND)
    ]
    packer = Packer(tokenizer, arguments.seed + stage.step + 1)

    def step(progress: float) -> tuple[Tensor, dict[str, float]]:
        sampler = samplers[int(packer.rng.random() < UNIFORM_SHARE)]
        tokens = min(sampler.count(sampler.rng), MOST_TOKENS)
        batch = sampler.batch(arguments.batch * 144 // max(tokens, 144), tokens, pixels=False)
        packed = packer.pack(batch["objects"], tokens, arguments.questions)
        with half():
            logits, hidden_states = read_packed(model.model, model.lm_head, packed, projector(oracle(batch)))
        marked, looked_up = answer_loss(logits, packed), understanding.loss(hidden_states, packed)
        return marked.loss + UNDERSTANDING_WEIGHT * looked_up, {**marked.by_kind, "looked_up": looked_up.item()}

    stage.run(step)


def load_tokenizer(run: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer, trained when there is none yet."""
    folder = run / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def questions_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=9, help="on each scene, packed behind one picture")


if __name__ == "__main__":
    train(loop.arguments(__doc__ or "", minutes=60, batch=12, rate=2e-3, more=questions_argument))
