"""Stage 3: tower, projector and language model together, as one LLaVA.

First the projector alone learns to say with the tower's features what the oracle said with the truth; then everything
trains on questions, the tower more slowly and still held to its dense targets. Pictures come with few and with many
patches, up to all 576, because the model must read any number of them.

    python -m training.joint --minutes 45          # needs tower.pt and language.pt in the run folder
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from training.build import empty_llava
from training.config import VISION
from training.language import answer_logits, load_tokenizer, oracle, oracle_projector
from training.muon import Muon
from training.objects import from_table
from training.packing import Packer, answer_loss
from training.tower import DenseHeads, Sampler, features, losses, schedule

PATCH_COUNTS = (80, 112, 160, 256, 576)
PATCH_COUNT_ODDS = (0.24, 0.3, 0.24, 0.14, 0.08)
DENSE_WEIGHT = 0.15
TOWER_RATE = 0.3
"""Rate of the tower as a share of the language model's."""


class Joint(nn.Module):
    """The LLaVA and the read-outs that only training uses."""

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.llava, self.heads = llava, DenseHeads(VISION.hidden_size)

    def image_tokens(self, hidden: Tensor) -> Tensor:
        """Feature layer [B, 1 + K, D] -> [B, K, width of the language model]; CLS is dropped as in LLaVA-1.5."""
        projected: Tensor = self.llava.model.multi_modal_projector(hidden[:, 1:])
        return projected

    def optimisers(self, rate: float) -> list[torch.optim.Optimizer]:
        parts = {"tower": ([], []), "rest": ([], [])}  # type: dict[str, tuple[list[nn.Parameter], list[nn.Parameter]]]
        for name, parameter in self.named_parameters():
            where = parts["tower" if "vision_tower" in name else "rest"]
            where[0 if parameter.ndim == 2 and "layers" in name else 1].append(parameter)
        rates = {"tower": rate * TOWER_RATE, "rest": rate}
        muon = [{"params": parts[name][0], "lr": rates[name], "full": rates[name]} for name in parts]
        adam = [{"params": parts[name][1], "lr": rates[name], "full": rates[name]} for name in parts]
        return [
            Muon(muon, rate, weight_decay=0.01),
            torch.optim.AdamW(adam, rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def start(run: Path, llava: LlavaForConditionalGeneration) -> tuple[Joint, nn.Module]:
    """The parts of stages 1 and 2, and the oracle's projector that the real one is to imitate."""
    joint = Joint(llava)
    tower = torch.load(run / "tower.pt", weights_only=True)
    language = torch.load(run / "language.pt", weights_only=True)
    llava.model.vision_tower.load_state_dict(tower["tower"])
    joint.heads.load_state_dict(tower["heads"])
    llava.model.language_model.load_state_dict(
        {name.removeprefix("model."): value for name, value in language["model"].items() if name.startswith("model.")}
    )
    llava.tie_weights()
    teacher = oracle_projector(llava.config.text_config.hidden_size)
    teacher.load_state_dict(language["projector"])
    return joint, teacher


def imitate(joint: Joint, teacher: nn.Module, sampler: Sampler, steps: int) -> None:
    """Fit the projector to the oracle's image tokens, everything else held still."""
    projector = joint.llava.model.multi_modal_projector
    optim = torch.optim.AdamW(projector.parameters(), lr=3e-3)
    for step in range(steps):
        batch = sampler.batch(16, 112)
        with torch.no_grad():
            hidden = features(joint.llava.model.vision_tower, batch["patches"], batch["patch_ids"])
            wanted = teacher(oracle(batch, sharpness=9.0, blur=0.0))
        loss = F.mse_loss(joint.image_tokens(hidden), wanted) / wanted.var()
        optim.zero_grad()
        loss.backward()
        optim.step()
        for group in optim.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        if step % 50 == 0:
            print(json.dumps({"imitate": step, "unexplained": round(loss.item(), 4)}), flush=True)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.run)
    llava = empty_llava(tokenizer)
    path, spent, step = arguments.run / "joint.pt", 0.0, 0
    sampler = Sampler(arguments.cache, arguments.seed + 17)
    if path.exists():
        state = torch.load(path, weights_only=True)
        joint = Joint(llava)
        joint.llava.load_state_dict(state["model"])
        joint.heads.load_state_dict(state["heads"])
        spent, step = state["seconds"], state["step"]
        sampler = Sampler(arguments.cache, arguments.seed + 17 + step)
    else:
        joint, teacher = start(arguments.run, llava)
        imitate(joint, teacher, sampler, arguments.imitate)
    packer, optim = Packer(tokenizer, arguments.seed + step + 1), joint.optimisers(arguments.rate)
    total, began, saved_at, mean = arguments.minutes * 60, time.time(), time.time(), {}
    while (elapsed := spent + time.time() - began) < total:
        for one in optim:
            for group in one.param_groups:
                group["lr"] = group["full"] * schedule((elapsed - spent) / (total - spent))
        figures = train_step(joint, sampler, packer, optim, arguments)
        step += 1
        for name, value in figures.items():
            mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
        if step % 50 == 0:
            print(json.dumps({"step": step, "s": round(elapsed), **{n: round(v, 3) for n, v in mean.items()}}), flush=True)
        if time.time() - saved_at > 180:
            save(path, joint, elapsed, step)
            saved_at = time.time()
    save(path, joint, total, step)


def train_step(
    joint: Joint, sampler: Sampler, packer: Packer, optim: list[torch.optim.Optimizer], arguments: argparse.Namespace
) -> dict[str, float]:
    tokens = int(sampler.rng.choice(PATCH_COUNTS, p=PATCH_COUNT_ODDS))
    size = max(2, min(arguments.batch, arguments.batch * 160 // tokens))
    batch = sampler.batch(size, tokens)
    hidden = features(joint.llava.model.vision_tower, batch["patches"], batch["patch_ids"])
    dense, dense_figures = losses(joint.heads, hidden, batch)
    packed = packer.pack([from_table(table.numpy()) for table in batch["objects"]], tokens, arguments.questions)
    logits = answer_logits(joint.llava.model.language_model, joint.llava.lm_head, packed, joint.image_tokens(hidden))
    marked = answer_loss(logits, packed)
    for one in optim:
        one.zero_grad()
    (marked.loss + DENSE_WEIGHT * sum(dense.values())).backward()
    nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
    for one in optim:
        one.step()
    seen = {f"see_{name}": dense_figures[name] for name in ("shape", "character", "offset_patches") if name in dense_figures}
    return {**marked.by_kind, **seen, "loss": marked.loss.item()}


def save(path: Path, joint: Joint, seconds: float, step: int) -> None:
    state = {
        "model": joint.llava.state_dict(),
        "heads": joint.heads.state_dict(),
        "seconds": seconds,
        "step": step,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--run", type=Path, default=Path("training/runs"))
    parser.add_argument("--minutes", type=float, default=45, help="of this stage, earlier runs of it counted in")
    parser.add_argument("--imitate", type=int, default=250, help="steps of the projector alone")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
