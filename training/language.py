"""Stage 2: the language model learns the language, and to look things up in a picture's tokens, before the tower is ready.

In place of the tower stands an oracle: for every shown patch the true attributes of its object, blurred as an unsure tower
would blur them, through a small projector. It needs no pixels, so this stage runs beside stage 1.

    python -m training.language --minutes 60
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scenes.world import CHARACTERS, COLOURS, SHAPES, SIZES
from training.config import text_config
from training.muon import Muon
from training.objects import from_table
from training.packing import Packed, Packer, answer_loss
from training.text import train_tokenizer
from training.tower import Sampler, patch_targets, schedule

CLASSES = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "character": len(CHARACTERS),
    "column": 3,
    "row": 3,
}
ORACLE_WIDTH = sum(CLASSES.values()) + 6


def oracle(batch: dict[str, Tensor], sharpness: float = 5.0, blur: float = 1.3) -> Tensor:
    """[B, K, 46] what a good tower would know of each patch: class probabilities, presence, centre, offset and place."""
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
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = LlamaForCausalLM(text_config(len(tokenizer), special))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.04 if "embed" in name else weight.shape[1] ** -0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight *= (2 * model.config.num_hidden_layers) ** -0.5
    return model


def answer_logits(model: nn.Module, head: nn.Module, packed: Packed, image_tokens: Tensor) -> Tensor:
    """[A, vocabulary] next-token logits at the answers' places. `model`: a decoder without its head."""
    embeds = model.embed_tokens(packed.ids)
    stop = packed.image_start + image_tokens.shape[1]
    embeds = torch.cat((embeds[:, : packed.image_start], image_tokens, embeds[:, stop:]), dim=1)
    out = model(inputs_embeds=embeds, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False)
    return head(out.last_hidden_state.flatten(0, 1)[packed.answer_rows])


def optimisers(model: LlamaForCausalLM, others: list[nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder layers, AdamW for all else."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    taken = {id(p) for p in matrices}
    rest = [p for module in (model, *others) for p in module.parameters() if id(p) not in taken]
    return [
        Muon(matrices, lr=rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.run)
    model = fresh_language_model(tokenizer)
    projector = oracle_projector(model.config.hidden_size)
    path, spent, step = arguments.run / "language.pt", 0.0, 0
    optim = optimisers(model, [projector], arguments.rate)
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        projector.load_state_dict(state["projector"])
        for one, saved in zip(optim, state["optimisers"], strict=True):
            one.load_state_dict(saved)
        spent, step = state["seconds"], state["step"]
    sampler, packer = Sampler(arguments.cache, arguments.seed + step), Packer(tokenizer, arguments.seed + step + 1)
    total, began, saved_at, mean = arguments.minutes * 60, time.time(), time.time(), {}
    while (elapsed := spent + time.time() - began) < total:
        progress = elapsed / total
        for one in optim:
            for group in one.param_groups:
                group["lr"] = arguments.rate * schedule(progress)
        tokens = int(sampler.rng.choice((40, 56, 80)))
        batch = sampler.batch(arguments.batch, tokens, easy=max(0.0, 0.9 - 3 * progress), pixels=False)
        packed = packer.pack([from_table(table.numpy()) for table in batch["objects"]], tokens, arguments.questions)
        logits = answer_logits(model.model, model.lm_head, packed, projector(oracle(batch)))
        marked = answer_loss(logits, packed)
        for one in optim:
            one.zero_grad()
        marked.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for one in optim:
            one.step()
        step += 1
        for name, value in {**marked.by_kind, "loss": marked.loss.item()}.items():
            mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
        if step % 100 == 0:
            print(json.dumps({"step": step, "s": round(elapsed), **{n: round(v, 3) for n, v in mean.items()}}), flush=True)
            sampler.refresh()
        if time.time() - saved_at > 180:
            save(path, model, projector, optim, elapsed, step)
            saved_at = time.time()
    save(path, model, projector, optim, total, step)


def save(
    path: Path, model: nn.Module, projector: nn.Module, optim: list[torch.optim.Optimizer], seconds: float, step: int
) -> None:
    state = {
        "model": model.state_dict(),
        "projector": projector.state_dict(),
        "optimisers": [one.state_dict() for one in optim],
        "seconds": seconds,
        "step": step,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_tokenizer(run: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer, trained when there is none yet."""
    folder = run / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--run", type=Path, default=Path("training/runs"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
