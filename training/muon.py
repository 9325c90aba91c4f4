"""PyTorch's Muon, matrices of one shape at a time.

`torch.optim.Muon` orthogonalises each matrix alone, which took 43% of a training step of the tower on one CPU; batched
it takes a tenth. The update is the same (momentum
0.95, Nesterov, five Newton-Schulz steps, rate matched to AdamW's root mean square as in arXiv 2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(updates: Tensor, steps: int = 5) -> Tensor:
    """[M, rows, cols] -> the nearest (nearly) orthogonal matrices, by Newton-Schulz iteration."""
    tall = updates.shape[1] > updates.shape[2]
    x = updates.mT if tall else updates
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """Momentum, orthogonalised. For matrices only; everything else belongs to AdamW."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "Muon evaluates no closure."
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                momenta = torch.stack([self._momentum(weight, group["momentum"]) for weight in weights])
                updates = orthogonalise(momenta.to(torch.bfloat16)).float()
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, weight: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average: Tensor = state["momentum_buffer"]
        assert weight.grad is not None
        average.lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum)
