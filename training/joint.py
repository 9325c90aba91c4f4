"""Stage 3: tower, projector and language model together, as one LLaVA.

First the projector alone learns to say with the tower's features what the oracle said with the truth; then everything
trains on questions, the tower more slowly and still held to its dense targets (or not at all: `--tower-rate 0`).
Half of the pictures come whole, the others with any share of their patches down to a tenth, whatever those show
(`--dropping uniform`), because the model must read any number of them.

    python -m training.joint --minutes 45      # on the first two stages of the run folder; without them, on from
                                               # the shipped model and training/readouts.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from training import loop
from training.build import EMBEDDED, empty_llava, save_folder
from training.config import VISION
from training.dropping import DROPPINGS
from training.half import attend_fast, half
from training.language import (
    UNDERSTANDING_WEIGHT,
    Understanding,
    load_tokenizer,
    oracle,
    oracle_projector,
    questions_argument,
    read_packed,
)
from training.loop import Loop, Optimisers, load_part
from training.packing import Packer, answer_loss
from training.tower import DenseHeads, Sampler, features, losses

DENSE_WEIGHT = 0.15
READ_OUTS = Path("training/readouts.safetensors")
"""The read-outs of the shipped model: with them its training goes on anywhere."""


def image_tokens(llava: LlavaForConditionalGeneration, hidden: Tensor) -> Tensor:
    """Feature layer [B, 1 + K, D] -> [B, K, width of the language model]; CLS is dropped as in LLaVA-1.5."""
    projected: Tensor = llava.model.multi_modal_projector(hidden[:, 1:])
    return projected


class ReadOuts(nn.Module):
    """What is used in training only: read-outs of the tower's patches and of the language model's look-ups."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.dense, self.understanding = DenseHeads(vision_width), Understanding(text_width)


def start(arguments: argparse.Namespace, llava: LlavaForConditionalGeneration, read_outs: ReadOuts) -> None:
    """Load what there is to start from: the first two stages, else the shipped model."""
    tower, language = (arguments.run / f"{stage}.safetensors" for stage in ("tower", "language"))
    if tower.exists() and language.exists():
        llava.model.vision_tower.load_state_dict(load_part(tower, "tower"))
        read_outs.dense.load_state_dict(load_part(tower, "heads"))
        read_outs.understanding.load_state_dict(load_part(language, "understanding"))
        decoder = {name.removeprefix("model."): value for name, value in load_part(language, "model").items()}
        decoder.pop("lm_head.weight", None)  # tied to the embeddings
        llava.model.language_model.load_state_dict(decoder)
        llava.tie_weights()
        imitate(llava, language, Sampler(arguments.cache, arguments.seed + 5), arguments.imitate)
    else:
        llava.load_state_dict(LlavaForConditionalGeneration.from_pretrained(EMBEDDED).state_dict())
        read_outs.load_state_dict(load_file(READ_OUTS))


def imitate(llava: LlavaForConditionalGeneration, language: Path, sampler: Sampler, steps: int) -> None:
    """Fit the projector to the oracle's image tokens, everything else held still."""
    teacher = oracle_projector(llava.model.multi_modal_projector.linear_2.out_features).to(loop.device())
    teacher.load_state_dict(load_part(language, "projector"))
    optimiser = torch.optim.AdamW(llava.model.multi_modal_projector.parameters(), lr=3e-3)
    for step in range(steps):
        batch = sampler.batch(16, 144)
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
    goes_on = not (arguments.run / "tokenizer").exists()  # nothing earlier here: the shipped model trains on
    tokenizer = PreTrainedTokenizerFast.from_pretrained(EMBEDDED) if goes_on else load_tokenizer(arguments.run)
    llava = empty_llava(tokenizer)
    for part in (llava.model.vision_tower, llava.model.language_model):
        attend_fast(part)
    rest = nn.ModuleList([llava.model.multi_modal_projector, llava.model.language_model])
    read_outs = ReadOuts(VISION.hidden_size, llava.model.multi_modal_projector.linear_2.out_features)
    for module in (llava, read_outs):
        nn.Module.to(module, loop.device())
    tower = llava.model.vision_tower
    optimisers = Optimisers([(rest, 1.0), (tower, arguments.tower_rate), (read_outs, 1.0)], arguments.rate)
    parts = {"llava": llava, "read_outs": read_outs}
    stage = Loop(arguments.run / "joint.safetensors", parts, optimisers, arguments.minutes)
    if not stage.resume():
        start(arguments, llava, read_outs)
    sampler = Sampler(arguments.cache, arguments.seed + 17 + stage.step, arguments.dropping)
    packer = Packer(tokenizer, arguments.seed + stage.step + 1)

    def step(progress: float) -> tuple[Tensor, dict[str, float]]:
        tokens = sampler.count(sampler.rng)
        batch = sampler.batch(max(2, min(arguments.batch, arguments.batch * 448 // tokens)), tokens)
        with half():
            with torch.set_grad_enabled(arguments.tower_rate > 0):
                hidden = features(tower, batch["patches"], batch["patch_ids"])
            packed = packer.pack(batch["objects"], tokens, arguments.questions)
            image = image_tokens(llava, hidden)
            logits, states = read_packed(llava.model.language_model, llava.lm_head, packed, image)
        marked, looked_up = answer_loss(logits, packed), read_outs.understanding.loss(states, packed)
        kept_up = UNDERSTANDING_WEIGHT * looked_up
        seen: dict[str, float] = {}
        if arguments.tower_rate > 0:
            dense, seen = losses(read_outs.dense, hidden, batch)
            kept_up = kept_up + DENSE_WEIGHT * torch.stack(list(dense.values())).sum()
        figures = {f"see_{name}": value for name, value in seen.items() if name in ("shape", "text", "centre")}
        return marked.loss + kept_up, {**marked.by_kind, **figures, "looked_up": looked_up.item()}

    stage.run(step)
    facts = {"joint_minutes": round(stage.seconds / 60, 1), "joint_steps": stage.step}
    save_folder(llava.cpu(), tokenizer, arguments.out, facts)
    weights = {name: value.cpu().contiguous() for name, value in read_outs.state_dict().items()}
    save_file(weights, arguments.run / READ_OUTS.name)


def more_arguments(parser: argparse.ArgumentParser) -> None:
    questions_argument(parser)
    parser.add_argument(
        "--tower-rate", type=float, default=0.0, help="the tower's share of the rate; 0 leaves it alone"
    )
    parser.add_argument("--dropping", choices=sorted(DROPPINGS), default="uniform", help="which patches a step shows")
    parser.add_argument("--imitate", type=int, default=250, help="steps of the projector alone")
    parser.add_argument("--out", type=Path, default=Path("training/runs/embedded"), help="folder for the trained model")


if __name__ == "__main__":
    train(loop.arguments(__doc__ or "", minutes=45, batch=12, rate=1.2e-3, more=more_arguments))
