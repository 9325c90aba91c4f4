"""What is to be done in one vision encoder: the cut, the layers it looks at, and what is recorded."""

from __future__ import annotations

from dataclasses import dataclass

from flowcut.criteria import METHODS, Method, Recipe
from flowcut.cut import CutConfig

MIDDLE = 9 / 24
"""HiPrune looks at the 9th of CLIP-L's 24 layers; elsewhere at the layer of the same relative depth."""
SHOWN_BY_A_LAYER = ("cls_attention", "value_norm", "middle_mean", "deep_mean", "keys")
"""Fields of Evidence that one layer's queries, keys and values show."""
MIDDLE_WITH_WINDOWS = 16 / 32
"""In towers that attend in windows it looks at the 16th of 32 layers, one that attends to the whole picture."""


@dataclass(frozen=True)
class EncoderPlan:
    """What is fixed before a picture comes: the encoder's measures and what is wanted of it."""

    cut: CutConfig | None
    n_layers: int
    n_heads: int
    feature_layer: int
    read_layer: int
    """The deepest layer whose output the model reads: the feature layer, unless it joins several."""
    flows: bool
    """Whether to record every layer's flow; pruning alone needs none of it."""
    matrices: bool = False
    """Whether the flow holds the head-mean attention matrices too."""
    proxy: bool = False
    """Whether a proxy stands in for CLS, the encoder having none."""
    merge_side: int = 1
    """Side of the squares of patches that become one token of the language model."""
    own_release: bool = False
    """Whether FlowCut's release has code for this kind of encoder alone (Qwen-VL)."""
    seen_by: CutConfig | None = None
    """The cut behind the projector, if one is made there: what its method wants to know of the attention is gathered
    here, and nothing is cut."""
    windows: bool = False
    """Whether most layers attend within windows."""
    hands_cls: bool = True
    """Whether whoever reads the encoder takes the CLS token too, where the method hands it over."""

    @property
    def as_own_release(self) -> bool:
        """Whether FlowCut goes as in that code: no value similarity, and a last prune point after the feature layer."""
        return self.own_release and self.cut is not None and self.cut.variant == "official"

    @property
    def last_prune(self) -> int:
        """The layer after which FlowCut has its last prune point."""
        return self.feature_layer if self.as_own_release else self.feature_layer - 1

    @property
    def patches_per_token(self) -> int:
        """Patches that are kept or pruned together."""
        return self.merge_side**2

    @property
    def method(self) -> Method | None:
        """The registry's line of the method that cuts."""
        return None if self.cut is None else METHODS[self.cut.method]

    @property
    def cls_goes_on(self) -> bool:
        """Whether a cut keeps CLS as one of its tokens for the language model; never as the only one."""
        if self.cut is None or self.cut.tokens < 2:
            return False
        return self.cut.variant in METHODS[self.cut.method].hands_cls and self.hands_cls and not self.proxy

    @property
    def recipe(self) -> Recipe | None:
        """FlowCut's parts that are in, where FlowCut or an ablation of it cuts."""
        return None if self.method is None else self.method.recipe

    def looks(self, layer: int) -> list[str]:
        """What a one-shot method wants to know of a layer's attention, by the names of Evidence's fields."""
        looking = self.cut or self.seen_by
        if looking is None:
            return []
        needs, chosen = METHODS[looking.method].needs, looking.layer
        asked = self.feature_layer if chosen is None else chosen % self.n_layers
        depth = MIDDLE_WITH_WINDOWS if self.windows else MIDDLE
        middle = max(round(depth * self.n_layers) - 1, 0) if chosen is None else asked
        wanted = {"cls_attention": asked, "value_norm": asked, "middle_mean": middle}
        found = (name for name in needs if name in SHOWN_BY_A_LAYER)
        return [name for name in found if wanted.get(name, self.feature_layer) == layer]

    @property
    def last_look(self) -> int:
        """The deepest layer that a one-shot method wants to look into."""
        return max((layer for layer in range(self.n_layers) if self.looks(layer)), default=-1)
