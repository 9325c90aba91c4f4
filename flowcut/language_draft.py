"""From one prefill's tensors to the fields of a LanguageRecord."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.scores import Criteria


def score_fields(criteria: list[Criteria | None], kept: list[Tensor]) -> dict[str, np.ndarray | None]:
    """The record's score fields, one row per span; NaN for spans that were not scored."""
    names = ("relation", "semantic", "value_norm", "score", "cutoff", "margin")
    if all(scored is None for scored in criteria):
        return dict.fromkeys(names)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for scored, ids in zip(criteria, kept, strict=True):
        for name, row in _score_rows(scored, ids).items():
            rows[name].append(row)
    cutoffs = torch.stack(rows.pop("cutoff")).numpy()
    return {"cutoff": cutoffs, **{name: stacked(parts, np.nan) for name, parts in rows.items()}}


def _score_rows(scored: Criteria | None, kept: Tensor) -> dict[str, Tensor]:
    if scored is None:
        nothing = torch.full((len(kept),), torch.nan)
        names = ("relation", "semantic", "value_norm", "score", "margin")
        return {**dict.fromkeys(names, nothing), "cutoff": torch.tensor(torch.nan)}
    parts = {"relation": scored.relation, "semantic": scored.semantic, "value_norm": scored.norm, "score": scored.score}
    rows = {name: part[0].cpu() for name, part in parts.items()}
    lost_some = len(kept) < len(rows["score"])
    cutoff = rows["score"][kept].min() if lost_some else torch.tensor(torch.nan)
    return {**rows, "cutoff": cutoff, "margin": rows["score"] - cutoff}


def stacked(rows: list[Tensor], filler: float) -> np.ndarray:
    """[S, longest], shorter rows filled up at the end."""
    if not rows:
        return np.zeros((0, 0), dtype=np.int64 if isinstance(filler, int) else np.float32)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler).numpy()


def numpy_of(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
