"""Scores and records in float32, whatever the caller's autocast asks of the model's own work."""

from __future__ import annotations

import torch


def full_precision(device: torch.device) -> torch.autocast:
    """While inside, nothing is cast down: autocast would take products of float32 numbers in bfloat16."""
    return torch.autocast(device.type, enabled=False)
