"""What all stages share: a budget in minutes, a rate that falls towards its end, a log, checkpoints to go on from.

The minutes are those that the processors worked, not the clock's: beside other work a stage takes longer and learns as
much.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.muon import Muon

Batch = dict[str, Tensor]
Part = TypeVar("Part")

SAVE_EVERY = 180.0
"""Seconds between checkpoints."""


def device() -> torch.device:
    """CUDA if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def schedule(progress: float, warm: float = 0.02) -> float:
    """Share of the full rate at a share of the training: linear up, flat, then linearly down to a twentieth."""
    return min(1.0, progress / warm) * min(1.0, max(0.05, (1 - progress) / 0.45))


def arguments(
    stage: str,
    minutes: float,
    batch: int,
    rate: float,
    more: Callable[[argparse.ArgumentParser], None],
    cache: Sequence[Path] = (Path("training/cache/world"),),
) -> argparse.Namespace:
    """The command line of a stage."""
    parser = argparse.ArgumentParser(description=stage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, nargs="+", default=cache, help="folders of scenes")
    parser.add_argument("--run", type=Path, default=Path("training/runs"))
    parser.add_argument("--minutes", type=float, default=minutes, help="of this stage, earlier runs of it counted in")
    parser.add_argument("--batch", type=int, default=batch, help="scenes in a step")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    more(parser)
    return parser.parse_args()


@dataclass
class Optimisers:
    """Muon for the matrices inside layers, AdamW for all else; each module at a share of the full rate."""

    modules: list[tuple[nn.Module, float]]
    """A module and its share of the rate."""
    rate: float
    both: list[torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        groups: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for module, share in self.modules:
            for is_matrix, group in groups.items():
                chosen = [p for name, p in module.named_parameters() if (p.ndim == 2 and "layers" in name) == is_matrix]
                if chosen:
                    group.append({"params": chosen, "lr": self.rate * share, "full": self.rate * share})
        self.both = [
            Muon(groups[True], self.rate, weight_decay=0.01),
            torch.optim.AdamW(groups[False], self.rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, loss: Tensor, share: float) -> None:
        """One update at a share of every group's full rate."""
        for one in self.both:
            one.zero_grad()
            for group in one.param_groups:
                group["lr"] = group["full"] * share
        loss.backward()
        for module, _ in self.modules:
            nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        for one in self.both:
            one.step()


@dataclass
class Loop:
    """Runs steps until the minutes of work are spent, those of earlier runs of the same stage counted in."""

    path: Path
    """The stage's checkpoint (safetensors)."""
    parts: dict[str, nn.Module]
    optimisers: Optimisers
    minutes: float
    seconds: float = 0.0
    step: int = 0

    def resume(self) -> bool:
        """Go on from the checkpoint if there is one."""
        if not self.path.exists():
            return False
        tensors = load_file(self.path)
        for name, part in self.parts.items():
            part.load_state_dict(_under(tensors, f"{name}/"))
        for number, one in enumerate(self.optimisers.both):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, f"optimiser{number}/").items():
                index, _, slot = key.partition("/")
                state.setdefault(int(index), {})[slot] = value
            one.load_state_dict({"state": state, "param_groups": one.state_dict()["param_groups"]})
        self.seconds, self.step = float(tensors["seconds"]), int(tensors["step"])
        return True

    def save(self) -> None:
        """Write weights and optimiser state; the old checkpoint stays until the new one is whole."""
        tensors = {
            f"{name}/{key}": value for name, part in self.parts.items() for key, value in part.state_dict().items()
        }
        for number, one in enumerate(self.optimisers.both):
            for index, slots in one.state_dict()["state"].items():
                tensors |= {f"optimiser{number}/{index}/{slot}": value for slot, value in slots.items()}
        tensors |= {"seconds": torch.tensor(self.seconds, dtype=torch.float64), "step": torch.tensor(self.step)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        # Tied weights share memory, which the format refuses: every tensor is written for itself.
        save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, partial)
        partial.replace(self.path)

    def run(self, losses: Callable[[float], tuple[Tensor, dict[str, float]]]) -> None:
        """`losses` takes the share of the training that is done and gives a loss and figures for the log."""
        total, earlier, began, saved = self.minutes * 60, self.seconds, _worked(), time.time()
        mean: dict[str, float] = {}
        while self.seconds < total:
            progress = self.seconds / total
            loss, figures = losses(progress)
            if not math.isfinite(loss.item()):
                raise SystemExit("The loss is no longer a number: start again from the checkpoint with a lower --rate.")
            self.optimisers.step(loss, schedule(progress))
            self.step += 1
            self.seconds = earlier + _worked() - began
            for name, value in {**figures, "loss": loss.item()}.items():
                mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
            if self.step % 50 == 0:
                line = {
                    "step": self.step,
                    "s": round(self.seconds),
                    **{name: round(value, 3) for name, value in mean.items()},
                }
                print(json.dumps(line), flush=True)
            if time.time() - saved > SAVE_EVERY:
                self.save()
                saved = time.time()
        self.save()


def _worked() -> float:
    """Seconds that this process has worked, its threads counted once; on a GPU the clock's."""
    return time.time() if device().type == "cuda" else time.process_time() / torch.get_num_threads()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_part(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of one part of a stage's checkpoint."""
    return _under(load_file(path), f"{name}/")
