"""Which patches the one-shot methods keep at any budget, from one look each at the whole picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.stages import ENCODER, PROJECTOR
from flowcut.cut import CutConfig
from flowcut.families.support import check_allowed
from flowcut.generation.session import Session
from flowcut.studies.scorer import AnswerScorer


class PatchChooser:
    """Kept patches of methods that cut once, behind the layer whose output is read: all before it ran on all patches.

    So what they keep is, to the last bit, what the unpruned encoder made, and a budget more costs no further look.
    """

    def __init__(self, scorer: AnswerScorer) -> None:
        self.scorer = scorer
        self._evidence: dict[tuple[tuple[str, ...], int | None], Evidence] = {}

    def knows(self, cut: CutConfig) -> bool:
        """Whether the method is of this kind: it ranks patches once, behind the layer that is read, and merges none.

        A model that joins several hidden states reads layers that ran on the survivors.
        """
        method, model = METHODS[cut.method], self.scorer.model
        layers = model.family.feature_layer(model.model)
        one_layer = isinstance(layers, int) or len(layers) == 1
        in_place = cut.stage is PROJECTOR or (cut.stage is ENCODER and one_layer)
        return in_place and method.rank is not None and method.joins is None and self.scorer.takes_patches

    def kept(self, cut: CutConfig) -> np.ndarray:
        """int64 [T] ascending, what a method that it `knows` keeps; all where the budget is no smaller than that.

        Raises:
            InvalidCut: this model does not allow the method, or the cut names patches that are not there.
        """
        check_allowed(cut, self.scorer.model.model, self.scorer.model.family)
        if cut.tokens >= self.scorer.n_patches:
            return np.arange(self.scorer.n_patches)
        kept: np.ndarray = METHODS[cut.method].select(self._look(cut), cut)[0]
        return kept

    def ranking(self, cut: CutConfig) -> np.ndarray | None:
        """float32 [N], what such a method ranks the patches by at this budget; None where it ranks or cuts nothing.

        Raises:
            InvalidCut: as `kept`.
        """
        check_allowed(cut, self.scorer.model.model, self.scorer.model.family)
        method = METHODS[cut.method]
        if not method.ranks or cut.tokens >= self.scorer.n_patches:
            return None
        ranking: np.ndarray = method.ranking(self._look(cut), cut)[0].astype(np.float32)
        return ranking

    def _look(self, cut: CutConfig) -> Evidence:
        """What the method wants to know of this picture, gathered as it is in a real cut."""
        method = METHODS[cut.method]
        if cut.stage is PROJECTOR:
            features = self.scorer.start.patch_features().double().cpu().numpy()
            return Evidence(1, self.scorer.n_patches, features=features[None])
        key = method.needs, cut.layer
        if key not in self._evidence:
            self._evidence[key] = self._gather(cut)
        return self._evidence[key]

    def _gather(self, cut: CutConfig) -> Evidence:
        n_patches = self.scorer.n_patches
        found: dict[str, Any] = {}
        if METHODS[cut.method].needs:
            with self.scorer.model.lock, torch.no_grad():
                with Session(self.scorer.model.model, cut, record=False) as session:
                    session.prepare(self.scorer.inputs)
                found = session.recording.evidence
        return Evidence(1, n_patches, **found, grid_cols=self.scorer.grid_cols)
