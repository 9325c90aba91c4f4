"""Stage 3: tower, projector and language model together, as one LLaVA.

First the projector alone learns to say with the tower's features what the oracle said with the truth; then everything
trains on questions, the tower more slowly and still held to its dense targets (or not at all: `--tower-rate 0`).
Pictures come with few and with many patches, up to all 576, because the model must read any number of them.

    python -m training.joint --minutes 45      # on the first two stages of the run folder; without them, on from
                                               # the shipped model and training/heads.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from training import loop
from training.build import EMBEDDED, empty_llava, save_folder
from training.config import VISION
from training.language import answer_logits, load_tokenizer, oracle, oracle_projector, questions_argument
from training.loop import Loop, Optimisers, load_part
from training.packing import Packer, answer_loss
from training.tower import DenseHeads, Sampler, features, losses

PATCH_COUNTS = (80, 112, 160, 256, 576)
PATCH_COUNT_ODDS = (0.24, 0.3, 0.24, 0.14, 0.08)
DENSE_WEIGHT = 0.15
HEADS = Path("training/heads.safetensors")
"""The read-outs of the shipped model: with them its training goes on anywhere."""


def image_tokens(llava: LlavaForConditionalGeneration, hidden: Tensor) -> Tensor:
    """Feature layer [B, 1 + K, D] -> [B, K, width of the language model]; CLS is dropped as in LLaVA-1.5."""
    projected: Tensor = llava.model.multi_modal_projector(hidden[:, 1:])
    return projected


def start(arguments: argparse.Namespace, llava: LlavaForConditionalGeneration, heads: DenseHeads) -> None:
    """Load what there is to start from: the first two stages, else the shipped model."""
    tower, language = (arguments.run / f"{stage}.safetensors" for stage in ("tower", "language"))
    if tower.exists() and language.exists():
        llava.model.vision_tower.load_state_dict(load_part(tower, "tower"))
        heads.load_state_dict(load_part(tower, "heads"))
        decoder = {name.removeprefix("model."): value for name, value in load_part(language, "model").items()}
        decoder.pop("lm_head.weight", None)  # tied to the embeddings
        llava.model.language_model.load_state_dict(decoder)
        llava.tie_weights()
        imitate(llava, language, Sampler(arguments.cache, arguments.seed + 5), arguments.imitate)
    else:
        llava.load_state_dict(LlavaForConditionalGeneration.from_pretrained(EMBEDDED).state_dict())
        heads.load_state_dict(load_file(HEADS))


def imitate(llava: LlavaForConditionalGeneration, language: Path, sampler: Sampler, steps: int) -> None:
    """Fit the projector to the oracle's image tokens, everything else held still."""
    teacher = oracle_projector(llava.model.multi_modal_projector.linear_2.out_features).to(loop.device())
    teacher.load_state_dict(load_part(language, "projector"))
    optimiser = torch.optim.AdamW(llava.model.multi_modal_projector.parameters(), lr=3e-3)
    for step in range(steps):
        batch = sampler.batch(16, 112)
        with torch.no_grad():
            hidden = features(llava.model.vision_tower, batch["patches"], batch["patch_ids"])
            wanted = teacher(oracle(batch, sharpness=9.0, blur=0.0))
        loss = F.mse_loss(image_tokens(llava, hidden), wanted) / wanted.var()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        if step % 50 == 0:
            print(json.dumps({"imitate": step, "unexplained": round(loss.item(), 4)}), flush=True)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.run)
    llava, heads = empty_llava(tokenizer), DenseHeads(VISION.hidden_size)
    for module in (llava, heads):
        nn.Module.to(module, loop.device())
    tower = llava.model.vision_tower
    rest = nn.ModuleList([llava.model.multi_modal_projector, llava.model.language_model])
    learning = [(rest, 1.0), *([(tower, arguments.tower_rate), (heads, 1.0)] if arguments.tower_rate else [])]
    optimisers = Optimisers(learning, arguments.rate)
    stage = Loop(arguments.run / "joint.safetensors", {"llava": llava, "heads": heads}, optimisers, arguments.minutes)
    if not stage.resume():
        start(arguments, llava, heads)
    sampler = Sampler(arguments.cache, arguments.seed + 17 + stage.step)
    packer = Packer(tokenizer, arguments.seed + stage.step + 1)

    def step(progress: float) -> tuple[Tensor, dict[str, float]]:
        tokens = int(sampler.rng.choice(PATCH_COUNTS, p=PATCH_COUNT_ODDS))
        size = max(2, min(arguments.batch, arguments.batch * 160 // tokens))
        batch = sampler.batch(size, tokens)
        with torch.set_grad_enabled(arguments.tower_rate > 0):
            hidden = features(tower, batch["patches"], batch["patch_ids"])
            dense, seen = losses(heads, hidden, batch)
        packed = packer.pack(batch["objects"], tokens, arguments.questions)
        image = image_tokens(llava, hidden)
        marked = answer_loss(answer_logits(llava.model.language_model, llava.lm_head, packed, image), packed)
        figures = {f"see_{name}": value for name, value in seen.items() if name in ("shape", "character", "centre")}
        return marked.loss + DENSE_WEIGHT * torch.stack(list(dense.values())).sum(), {**marked.by_kind, **figures}

    stage.run(step)
    facts = {"joint_minutes": round(stage.seconds / 60, 1), "joint_steps": stage.step}
    save_folder(llava.cpu(), tokenizer, arguments.out, facts)
    read_outs = {name: value.cpu().contiguous() for name, value in heads.state_dict().items()}
    save_file(read_outs, arguments.run / HEADS.name)


def more_arguments(parser: argparse.ArgumentParser) -> None:
    questions_argument(parser)
    parser.add_argument(
        "--tower-rate", type=float, default=0.3, help="the tower's share of the rate; 0 leaves it alone"
    )
    parser.add_argument("--imitate", type=int, default=250, help="steps of the projector alone")
    parser.add_argument("--out", type=Path, default=Path("training/runs/embedded"), help="folder for the trained model")


if __name__ == "__main__":
    train(loop.arguments(__doc__ or "", minutes=45, batch=12, rate=1.2e-3, more=more_arguments))
