"""What a model family says of itself: one class, derived from `Family`; nothing else asks which family it is.

A *medium* is a picture or a video of a prompt. The tower sees it as rows (tiles, frames, slices of a video), which are
the rows of a record; the language model reads it as a run of tokens, one at each of its placeholders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel

from flowcut.criteria.stages import ENCODER, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.records.vision import Geometry

SEPARATOR = -1
"""In a source: not a patch of any tile, such as a newline token."""


@dataclass(frozen=True)
class MediaKind:
    """One kind of media that a family reads, as its processor and its model name it."""

    name: str
    """`image` or `video`: what the model calls the features of this kind in `mm_encoder_outputs`."""
    inputs: tuple[str, ...]
    """What the processor gives for this kind alone, pixels first."""
    stacked: bool = False
    """Whether the model takes the features as one tensor [media, n, width]; else as a list of [n, width]."""
    flat: bool = False
    """Whether it takes them as one tensor of all media's tokens, [tokens, 1, width]."""
    beside: tuple[str, ...] = ()
    """Other inputs that say how the media lie in the prompt; they are the language model's, too."""
    output: str | None = None
    """What the model calls the features in `mm_encoder_outputs`, where that is not the name."""

    def container(self, features: list[Tensor]) -> Any:
        """The features of all media, [n, width] each, as the model takes them."""
        if self.flat:
            return torch.cat(features)[:, None]
        return torch.stack(features) if self.stacked else features


IMAGE = MediaKind("image", ("pixel_values",))


@dataclass(frozen=True, eq=False)
class EncodedMedium:
    """One picture or video as the language model gets it: n visual tokens, each made of up to k source patches."""

    features: Tensor
    """[n, width], its visual tokens, in their order in the prompt."""
    places: Tensor
    """int64 [n], ascending: the placeholder, among those of this medium, that each token fills."""
    source_patches: Tensor
    """int64 [n, k, 2], the record's row (tile, frame, slice) and the patch of each source of a token, the largest
    first; (-1, -1): no source, and all of them -1: a separator."""
    shares: Tensor
    """float32 [n, k], the share of each source patch; they sum to 1, or to 0 for a separator."""
    deepstack: Tensor | None = None
    """[n, m, width], what is added to each token behind the decoder's first m layers; None: nothing is."""

    def kept(self, stays: Tensor) -> EncodedMedium:
        """With the tokens alone that stay, bool [n]."""
        deepstack = None if self.deepstack is None else self.deepstack[stays]
        sources, shares = self.source_patches[stays], self.shares[stays]
        return EncodedMedium(self.features[stays], self.places[stays], sources, shares, deepstack)

    @classmethod
    def of_patches(cls, features: Tensor, places: Tensor, sources: Tensor) -> EncodedMedium:
        """Where each token is one patch: int64 [n, 2] in, its row and patch, (-1, -1) for a separator."""
        return cls(features, places, sources[:, None], (sources[:, :1] != SEPARATOR).float())

    @property
    def sources(self) -> Tensor:
        """int64 [n, 2], the record's row and the patch that each token is mostly made of; (-1, -1): a separator."""
        return self.source_patches[:, 0]

    @property
    def separators(self) -> int:
        """Visual tokens that are no patch, such as newline tokens."""
        return int((self.shares.sum(dim=-1) == 0).sum())


class Family(ABC):
    """One kind of vision-language model on its stock transformers class. What most families share is a default."""

    name: str
    model_class: str
    """transformers' class of the model."""
    description: str
    """For the list of what is supported."""
    towers: tuple[str, ...]
    """transformers' model_type of the vision towers that are supported."""
    published: tuple[str, ...] = ()
    """Ids on the hub that people can try."""
    media: tuple[MediaKind, ...] = (IMAGE,)
    """The kinds of media that it reads."""
    language_layer: int | None = None
    """The decoder layer after which FlowCut prunes once more; None: it does not."""
    processor_class: str | None = None
    """transformers' processor, where it cannot be loaded by itself without torchvision."""
    counts_by_picture: bool = False
    """Whether the number of a picture's tokens depends on its size."""
    stages: tuple[Stage, ...] = (ENCODER,)
    """Stages at which methods other than FlowCut may cut."""
    why_not: Mapping[str, str] = {}
    """By the name of a stage that is not among them, why it is not: what follows "cuts ..., and"."""
    merges_patches: bool = False
    """Whether squares of patches become one token."""
    one_grid: bool = True
    """Whether a picture is one grid of patches, not several tiles or frames."""
    frames: int = 0
    """Frames that are taken of a video unless others are asked for; 0: it takes no videos."""
    least_frames: int = 1
    """Frames of a video that it takes at least."""
    most_frames: int = 0
    """Frames of a video that it takes at most."""
    presumed_rate: int | None = None
    """Frames a second that its processor presumes where none are known, to write their times into the prompt."""
    unread: str | None = None
    """Why its vision encoder is not read, one sentence; None: it is. Then methods choose behind the projector."""
    hands_cls: bool = False
    """Whether a CLS token goes to the language model where a method hands it over as one of its tokens."""
    positions_are_places: bool = False
    """Whether visual tokens are numbered by their place in the picture or video, which tokens that stay keep."""

    @abstractmethod
    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder inside the model, for this kind of media."""

    @abstractmethod
    def projector(self, model: PreTrainedModel) -> nn.Module:
        """What turns patch features into the language model's tokens."""

    @abstractmethod
    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder, without its head."""

    @abstractmethod
    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The hidden state (or states) that the projector reads, as in `hidden_states[...]`."""

    @abstractmethod
    def placeholder_id(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> int:
        """The id in `input_ids` of the placeholder of this kind of media."""

    @abstractmethod
    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches that a picture has at most, before any cut, over all its tiles."""

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:  # noqa: B027
        """Say to a processor what it needs to count placeholders; nothing where its files say it."""

    @abstractmethod
    def prompt(self, processor: Any, question: str, system: str | None, kind: MediaKind = IMAGE) -> str:
        """The prompt for one medium and a question, as the processor takes it."""

    @abstractmethod
    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """How one picture of (width, height) lies on the encoder's inputs: one for each row of its record."""

    @abstractmethod
    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """How a video of so many frames of (width, height) lies on the encoder's inputs: one for each row."""

    @abstractmethod
    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """How many placeholders the processor wrote for each medium; `given` are the `inputs` of its kind."""

    @abstractmethod
    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """Every medium through tower and projector, cut inside `recording`, which is in force."""

    def named(self, kind: MediaKind, inputs: BatchFeature) -> BatchFeature:
        """What the processor gave for a medium of this kind, named as in `kind.inputs`: some name all kinds alike."""
        return inputs

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor | None:
        """int64 [axes, batch, length], positions of an uncut prompt in space and time; None: tokens count themselves.

        Kept tokens keep theirs; the place among the tokens kept goes on top of them, as generation expects it.
        """
        return None

    def flowcut_layer(self, model: PreTrainedModel, cut: CutConfig | None) -> int | None:
        """The decoder layer after which FlowCut prunes once more under this cut; None: it does not."""
        return self.language_layer if cut is not None and cut.by_flowcut else None

    def in_one_run(self, kind: MediaKind) -> bool:
        """Whether the tokens of a medium of this kind lie in one run of the prompt, with no text between them."""
        return True

    def decoder_reason(self, model: PreTrainedModel) -> str | None:
        """Why no cut can be made inside the language model, one sentence, where it is of a kind of its own."""
        return None

    def differs(self, model: PreTrainedModel, cut: CutConfig | None) -> tuple[str, ...]:
        """What FlowCut does here in another way than its released code, beyond what the encoder says of itself."""
        return ()

    def handed_over(self, kind: MediaKind, media: list[EncodedMedium]) -> tuple[Any, dict[str, Any]]:
        """The features of all media as the model takes them, and what else its encoder's output must hold."""
        deepstack = [medium.deepstack.unbind(dim=1) for medium in media if medium.deepstack is not None]
        extras = {"deepstack_features": list(zip(*deepstack, strict=True))} if deepstack else {}
        return kind.container([medium.features for medium in media]), extras

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """What a reader of a record must know of this family under this cut, one sentence each."""
        return ()

    def model_notes(self, model: PreTrainedModel) -> tuple[str, ...]:
        """What a reader of a record must know of this very model, one sentence each."""
        return ()

    def blocks(self, model: PreTrainedModel, prepared: Mapping[str, Any]) -> Tensor | None:
        """int64 [batch, length], tokens of one number see each other both ways, -1: causal; None: all are causal."""
        return None

    def pairs_ahead(self, tokens: int, visual: Sequence[int]) -> int:
        """Pairs of a query and a later key in one decoder layer, where a prompt is not read causally throughout.

        Args:
            tokens: of the prompt, in this layer.
            visual: of each picture, in this layer.
        """
        return 0


def is_visual(family: Family, model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """bool, where `input_ids` holds a placeholder of any kind of media."""
    ids = [family.placeholder_id(model, kind) for kind in family.media]
    return torch.isin(input_ids, torch.tensor(ids, device=input_ids.device))
