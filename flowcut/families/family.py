"""What a model family must tell of itself. An adapter is one class with these names; nothing else asks which it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.record import Geometry
from flowcut.schedule import CutConfig
from flowcut.vision import Recording

SEPARATOR = -1
"""In a source: not a patch of any tile, such as a newline token."""


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """One picture as the language model gets it."""

    features: Tensor
    """[n, width], its visual tokens, in their order in the prompt."""
    sources: Tensor
    """int64 [n, 2], the record's row (tile or frame) and the patch that each comes from; (-1, -1): a separator."""

    @property
    def separators(self) -> int:
        """Visual tokens that are no patch, such as newline tokens."""
        return int((self.sources[:, 0] == SEPARATOR).sum())


class Family(Protocol):
    """One kind of vision-language model on its stock transformers class."""

    name: str
    description: str
    """For the list of what is supported."""
    towers: tuple[str, ...]
    """transformers' model_type of the vision towers that are supported."""
    picture_inputs: tuple[str, ...]
    """What the processor gives that is about pictures, `pixel_values` first."""
    language_layer: int | None
    """The decoder layer after which FlowCut prunes once more; None: it does not."""
    processor_class: str | None
    """transformers' processor, where it cannot be loaded by itself without torchvision."""
    counts_by_picture: bool
    """Whether the number of a picture's tokens depends on its size."""
    stages: tuple[str, ...]
    """Stages at which methods other than FlowCut may cut: of `picture`, `encoder`, `projector`, `decoder`."""
    merges_patches: bool
    """Whether squares of patches become one token."""
    one_grid: bool
    """Whether a picture is one grid of patches, not several tiles or frames."""

    def vision_tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision encoder inside the model."""
        ...

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """What turns patch features into the language model's tokens."""
        ...

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder, without its head."""
        ...

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The hidden state (or states) that the projector reads, as in `hidden_states[...]`."""
        ...

    def image_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder's id in `input_ids`."""
        ...

    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches that a picture has at most, before any cut, over all its tiles."""
        ...

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Tell a processor what it needs to count placeholders; older checkpoints left it out of their files."""
        ...

    def prompt(self, processor: Any, question: str, system: str | None) -> str:
        """The prompt for one picture and a question, as the processor takes it."""
        ...

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """How one picture of (width, height) lies on the encoder's inputs: one for each row of its record."""
        ...

    def placeholders(self, model: PreTrainedModel, pictures: Mapping[str, Any]) -> list[int]:
        """How many placeholders the processor wrote for each picture; `pictures` are its `picture_inputs`."""
        ...

    def encode(
        self, model: PreTrainedModel, recording: Recording, pictures: Mapping[str, Any], cut: CutConfig | None
    ) -> list[EncodedPicture]:
        """Every picture through tower and projector, cut inside `recording`, which is in force."""
        ...

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """What a reader of a record must know of this family under this cut, one sentence each."""
        ...
