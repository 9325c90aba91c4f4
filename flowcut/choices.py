"""Which patches the one-shot methods keep at any budget, from one look each at the whole picture."""

from __future__ import annotations

import numpy as np
import torch

from flowcut.criteria import METHODS, Evidence
from flowcut.inputs import Session
from flowcut.schedule import CutConfig
from flowcut.scoring import AnswerScorer


class PatchChooser:
    """Kept patches of methods that cut once, behind the layer whose output is read: all before it ran on all patches.

    So what they keep is, to the last bit, what the unpruned encoder made, and a budget more costs no further look.
    """

    def __init__(self, scorer: AnswerScorer) -> None:
        self.scorer = scorer
        self._evidence: dict[tuple[str, int | None], Evidence] = {}

    def knows(self, cut: CutConfig) -> bool:
        """Whether the method is of this kind: it ranks patches once, behind the layer that is read, and merges none.

        A model that joins several hidden states reads layers that ran on the survivors.
        """
        method, model = METHODS[cut.method], self.scorer.model
        layers = model.family.feature_layer(model.model)
        at_once = method.stage == "encoder" and method.rank is not None and method.joins is None
        return at_once and (isinstance(layers, int) or len(layers) == 1) and self.scorer.takes_patches

    def kept(self, cut: CutConfig) -> np.ndarray:
        """int64 [T] ascending, what a method that it `knows` keeps; all where the budget is no smaller than that."""
        if cut.tokens >= self.scorer.n_patches:
            return np.arange(self.scorer.n_patches)
        kept: np.ndarray = METHODS[cut.method].select(self._look(cut), cut)[0]
        return kept

    def _look(self, cut: CutConfig) -> Evidence:
        """What the method wants to know of this picture, gathered as it is in a real cut."""
        if not METHODS[cut.method].needs:
            return Evidence(1, self.scorer.n_patches, grid_cols=self.scorer.grid_cols)
        key = cut.method, cut.layer
        if key not in self._evidence:
            with self.scorer.model.lock, torch.no_grad():
                with Session(self.scorer.model.model, cut, record=False) as session:
                    session.prepare(self.scorer.inputs)
                (lane,) = session.recording.lanes
            found = {name: part.cpu().double().numpy() for name, part in lane.evidence.items()}
            self._evidence[key] = Evidence(1, self.scorer.n_patches, **found, grid_cols=lane.grid_cols)
        return self._evidence[key]
