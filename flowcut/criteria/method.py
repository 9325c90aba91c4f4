"""What a pruning method is: one dataclass that says where it cuts, what it looks at, and how it ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowcut.criteria.evidence import Budget, DecoderEvidence, Evidence, highest
from flowcut.criteria.positions import KEPT, RENUMBERED, Positions
from flowcut.criteria.setting import Setting
from flowcut.criteria.stages import DECODER, PICTURE, PROJECTOR, STAGES, Stage
from flowcut.errors import InvalidCut

OneShot = Callable[[Evidence, Budget], np.ndarray]
"""Evidence and cut in; float64 [B, N] ranking out, the T highest stay."""
Joins = Callable[[Evidence, Budget, np.ndarray], np.ndarray]
"""Evidence, cut and ranking in; int64 [B, N] out, the kept patch that each cut one is merged into, -1: into none."""
OF_VIDEOS = frozenset({"features", "grid_cols", "n_frames"})
"""The evidence that a method may need which compares the frames of a video."""
TAKEN_NAMES = (
    "method", "tokens", "variant", "layer", "seed", "per_image", "patches", "positions", "settings", "then",
)  # fmt: skip
"""What every cut has, and no setting of a method can be called."""
KINDS = ("control", "flowcut", "ablation", "peer")


@dataclass(frozen=True)
class Recipe:
    """FlowCut's parts, each of which an ablation leaves out."""

    cumulative: bool = True
    """Whether the scores of earlier layers count; else each prune point goes by its own layer alone."""
    multi_criteria: bool = True
    """S = (a^ + s^) w; else S = a^, the share of CLS attention alone."""
    adaptive: bool = True
    """Whether entropy says how many go; else the same number goes at every prune point."""


@dataclass(frozen=True)
class DecoderPlan:
    """Where and by what a method cuts inside the language model."""

    layers: Callable[[int], tuple[int, ...]]
    """Number of layers in; the layers (from 0) after which tokens go out."""
    rank: Callable[[DecoderEvidence, Budget], np.ndarray]
    """float64 [n], a ranking of the visual tokens alive; the highest stay."""
    looks_ahead: bool = False
    """Whether it looks at the attention of the layer behind the cut, run ahead on all tokens, not the one before it."""
    keeps_positions: bool = False
    """Whether survivors keep their positions, as released; else positions are renumbered without gaps."""

    def cut_after(self, n_layers: int) -> tuple[int, ...]:
        """The layers (from 0) of a language model with so many after which tokens go, ascending.

        Raises:
            InvalidCut: the method's own function named layers that there are not, or no cut comes before the last.
        """
        found = tuple(self.layers(n_layers))
        if not found or found != tuple(sorted(set(found))) or not 0 <= found[0] <= found[-1] <= n_layers - 2:
            raise InvalidCut(
                f"layers({n_layers}) gave {found}: give the layers after which tokens go, ascending, each once, "
                f"from 0 to {n_layers - 2}."
            )
        return found


@dataclass(frozen=True)
class Method:
    """One line of the registry."""

    label: str
    """Name in titles and legends."""
    source: str
    """Where the method comes from, in one line: paper, section."""
    stage: str = "encoder"
    """Where it cuts: `picture` (before the encoder), `encoder`, `projector` (behind it) or `decoder`."""
    kind: str = "peer"
    """`control`, `flowcut`, `ablation` (of FlowCut) or `peer` (another paper's)."""
    rank: OneShot | None = None
    """The ranking of a method that looks once, in the encoder or behind the projector."""
    needs: tuple[str, ...] = ()
    """Fields of the evidence that it looks at; nothing else is gathered."""
    recipe: Recipe | None = None
    """FlowCut and its ablations: which of its parts are in."""
    decoder: DecoderPlan | None = None
    """Methods of the decoder stage: where and by what they cut."""
    joins: Joins | None = None
    """Methods that merge what they cut: into which of the kept."""
    differs: tuple[str, ...] = ()
    """What is done in another way than in the method's released code, one sentence each; records, the command line and
    the Compare page say so."""
    differs_under: tuple[tuple[str, str], ...] = ()
    """The same for one variant, or for one value of a setting, alone: pairs of what must hold and a sentence, such as
    ("paper", "No CLS token is kept.") or ("recycling off", "Nothing is merged.")."""
    ranks: bool = True
    """Whether the ranking says more than which patches stay."""
    has_variants: bool = False
    settings: tuple[Setting, ...] = ()
    """What can be set besides, as `Cut(name, tokens, important_share=0.75)`."""
    hands_cls: tuple[str, ...] = ()
    """Variants that hand the CLS token to the language model as the first of their tokens, where there is one."""
    behind: Callable[[np.ndarray], np.ndarray] | None = None
    """In these variants: bool [B, N] from the ranking, which patches stand behind the others when they are kept."""
    takes_layer: bool = False
    default_layer: str = "feature layer"
    """What it looks at where no layer is given, in words."""
    takes_seed: bool = False
    of_videos: bool = False
    """Whether it compares the frames of a video, behind the projector, and so cuts no picture."""
    merges_by_mean: bool = False
    """Of methods that merge: a kept patch becomes the mean of itself and all that join it; else the mean of those that
    join is added to it."""
    takes_patches: bool = False
    """Whether somebody names the patches; such a method is no choice of a list of methods."""

    @property
    def cuts_at(self) -> Stage:
        """The stage at which it cuts."""
        return STAGES[self.stage]

    def differences(self, variant: str, settings: tuple[tuple[str, Any], ...] = ()) -> tuple[str, ...]:
        """What is done in another way than in the released code, by a cut of this variant and these settings."""
        by_name = {one.name: one for one in self.settings}
        holds = {variant, *(f"{name} {by_name[name].written(value)}" for name, value in settings)}
        return (*self.differs, *(sentence for condition, sentence in self.differs_under if condition in holds))

    @property
    def all_differences(self) -> tuple[str, ...]:
        """The same for lists of methods: what holds under a condition begins with it."""
        return (*self.differs, *(f"{condition}: {sentence}" for condition, sentence in self.differs_under))

    @property
    def positions(self) -> Positions:
        """What its release does with the positions of the tokens that stay.

        What is cut before the language model never gets a position there: LLaVA's code counts what is left. Inside it
        FastV's and DART's code gathers the positions with the tokens; PyramidDrop's, SparseVLM's and that of FlowCut
        for LLaVA-NeXT count anew.
        """
        return KEPT if self.decoder is not None and self.decoder.keeps_positions else RENUMBERED

    def check(self) -> None:
        """
        Raises:
            InvalidCut: it lacks what its stage needs, asks for evidence that nobody gathers, or says what it is in
                another form than pages and tables can show.
        """
        for name in ("label", "source"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip() or "\n" in text:
                raise InvalidCut(f"{name} is {text!r}: give one line of text.")
        if not isinstance(self.differs, tuple) or not all(isinstance(sentence, str) for sentence in self.differs):
            raise InvalidCut(
                f"differs is {self.differs!r}: give a tuple of sentences, such as ('Nothing is merged.',)."
            )
        self._check_settings()
        if self.kind not in KINDS:
            raise InvalidCut(f"The kind is {self.kind!r}: choose one of {', '.join(KINDS)}.")
        self._check_stage()

    def _check_settings(self) -> None:
        if not isinstance(self.settings, tuple) or not all(isinstance(one, Setting) for one in self.settings):
            raise InvalidCut(f"settings is {self.settings!r}: give a tuple of flowcut.criteria.Setting.")
        names = [one.name for one in self.settings]
        taken = [name for name in names if name in TAKEN_NAMES or names.count(name) > 1]
        if taken:
            raise InvalidCut(
                f"A setting is called {taken[0]!r}, which is the name of another one: choose another name."
            )
        for one in self.settings:
            one.checked(one.usual)
        pairs = self.differs_under
        if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise InvalidCut(f"differs_under is {pairs!r}: give a tuple of pairs, such as (('paper', 'It ...'),).")

    def _check_stage(self) -> None:
        if self.stage not in STAGES or self.cuts_at is PICTURE:
            raise InvalidCut(f"The stage is {self.stage!r}: choose encoder, projector or decoder.")
        is_decoder = self.cuts_at is DECODER
        ranks = callable(self.decoder.rank if is_decoder and self.decoder is not None else self.rank)
        if not ranks or is_decoder != (self.decoder is not None) or is_decoder == (self.rank is not None):
            raise InvalidCut(
                "A method of the decoder stage has decoder=DecoderPlan(layers, rank), one of another stage rank=, a "
                "function of evidence and cut."
            )
        given = self.cuts_at.gathered()
        if isinstance(self.needs, str):
            raise InvalidCut(f"needs is {self.needs!r}: give a tuple, such as ({self.needs!r},).")
        strange = [name for name in self.needs if name not in given]
        if strange:
            raise InvalidCut(f"needs holds {strange[0]!r}: the {self.stage} stage gathers {', '.join(given)}.")

        if self.of_videos and (self.cuts_at is not PROJECTOR or not set(self.needs) <= OF_VIDEOS):
            raise InvalidCut(
                "A method that compares the frames of a video (of_videos) has the stage projector, and may need "
                f"{', '.join(sorted(OF_VIDEOS))}."
            )

    def ranking(self, evidence: Evidence | DecoderEvidence, cut: Budget) -> np.ndarray:
        """float64, what the method ranks these patches by: [B, N], or [n] inside the language model.

        Raises:
            InvalidCut: its function gave something else, or values that are not numbers.
        """
        if isinstance(evidence, DecoderEvidence):
            assert self.decoder is not None
            return self._checked(self.decoder.rank(evidence, cut), (evidence.n_visual,))
        assert self.rank is not None
        return self._checked(self.rank(evidence, cut), (evidence.batch, evidence.n_patches))

    def _checked(self, ranking: Any, shape: tuple[int, ...]) -> np.ndarray:
        found = np.asarray(ranking)
        if found.shape != shape or found.dtype.kind not in "biuf":
            got = f"{found.dtype} of shape {list(found.shape)}"
            raise InvalidCut(f"{self.label} ranked with {got}: its function must give float64 of shape {list(shape)}.")
        found = found.astype(np.float64, copy=False)
        if np.isnan(found).any():
            raise InvalidCut(
                f"{self.label} ranked with values that are not numbers: check its function and what the model is "
                "given, or load the model in float32 or bfloat16."
            )
        return found

    def select(self, evidence: Evidence, cut: Budget) -> np.ndarray:
        """int64 [B, T], the patches that stay, ascending, with T < N; of equal ranks, the first in reading order."""
        return highest(self.ranking(evidence, cut), cut.tokens)
