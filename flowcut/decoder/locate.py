"""Where the parts of a language model are: its layers, their attention, its rotary embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from flowcut.decoder.two_way import two_way_mask
from flowcut.errors import FlowCutError
from flowcut.hooks.parts import model_type, parts_of

SUPPORTED = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
    "qwen2_vl_text": "Qwen2-VL", "qwen2_5_vl_text": "Qwen2.5-VL", "qwen3_vl_text": "Qwen3-VL",
    "gemma": "Gemma", "gemma2": "Gemma 2", "gemma3_text": "Gemma 3",
}  # fmt: skip
"""Decoders with rotary positions and grouped keys, by transformers' model_type; these can be cut. Those of Qwen-VL have
positions in three axes, which a cut leaves as they are."""
READABLE = {**SUPPORTED, "qwen3_5_text": "Qwen3.5", "phi3": "Phi-3"}
"""Decoders whose attention can be read. Most layers of Qwen3.5 have linear attention, which has no weights to read;
Phi-3 has one weight for query, key and value, which no cut here reads."""

DECODER_NAMES = ("", "language_model")
"""Under which a causal or a composite model keeps its decoder; "" is the model itself."""


@dataclass(frozen=True, eq=False)
class LanguageDecoder:
    """The parts of one decoder that recording and pruning hook into."""

    model: PreTrainedModel
    """The decoder without its head, whose `forward` takes input ids or embeddings."""
    layers: list[nn.Module]
    n_heads: int

    def attention(self, layer: int) -> nn.Module:
        """The module of a layer that calls the attention function."""
        return cast(nn.Module, self.layers[layer].self_attn)

    @property
    def attending(self) -> list[int]:
        """The layers that attend; others have linear attention, which has no weights."""
        return [index for index, layer in enumerate(self.layers) if hasattr(layer, "self_attn")]

    @property
    def positions_are_places(self) -> bool:
        """Whether visual tokens are numbered by time, row and column, not by their place in the prompt."""
        return "mrope_section" in (getattr(self.model.config, "rope_parameters", None) or {})

    def rotary(self, hidden: Tensor, positions: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Cosine and sine for int64 [B, q] positions in a layer, in the dtype of `hidden`; alike where layers slide."""
        by_layer = {"layer_type": self.model.config.layer_types[layer]} if self.turns_by_layer else {}
        angles: tuple[Tensor, Tensor] = cast(Any, self.model).rotary_emb(hidden, position_ids=positions, **by_layer)
        return angles

    @property
    def turns_by_layer(self) -> bool:
        """Whether layers that slide have other rotary angles than those that do not (Gemma 3)."""
        return model_type(self.model) == "gemma3_text"

    @property
    def softcap(self) -> float | None:
        """What the logits of attention are capped at, by a tanh (Gemma 2); None: they are not."""
        return cast(Any, self.model.config).attn_logit_softcapping if model_type(self.model) == "gemma2" else None

    def attend_ahead(self, layer: int, hidden: Tensor, given: Mapping[str, Any], positions: Tensor) -> None:
        """Let a layer's attention look at [B, q, width] that would enter it, for a probe to see; nothing is kept.

        Args:
            given: the keyword arguments of a layer that reads the same sequence.
            positions: int64 [B, q], of that sequence.
        """
        part: Any = self.layers[layer]
        arguments = {name: value for name, value in given.items() if name not in ("hidden_states", "past_key_values")}
        if self.turns_by_layer:
            arguments["position_embeddings"] = self.rotary(hidden, positions, layer)
        # forward, not the module itself: no hook of transformers may see this second run
        part.self_attn.forward(hidden_states=part.input_layernorm(hidden), past_key_values=None, **arguments)

    def embedded(self, given: Mapping[str, Any]) -> Tensor:
        """[B, L, width], the prompts as the first layer reads them; `given` are the decoder's arguments."""
        embedded = given.get("inputs_embeds")
        found: Tensor = self.model.get_input_embeddings()(given["input_ids"]) if embedded is None else embedded
        return found

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Hidden states normalised as behind the last layer."""
        normalised: Tensor = cast(Any, self.model).norm(hidden)
        return normalised

    def slides(self, layer: int) -> bool:
        """Whether a layer's attention reaches back a window only."""
        config = self.model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            return bool(kinds[layer] == "sliding_attention")
        return getattr(config, "sliding_window", None) is not None

    def mask(self, layer: int, hidden: Tensor, live: Tensor | None, cache: Any, blocks: Tensor | None = None) -> Any:
        """The mask that transformers would make for this layer, sized to what the layer's own cache holds.

        Positions are left out: it would take gaps between them for the borders of several prompts in one row.

        Args:
            hidden: [B, q, width], the layer's input.
            live: [B, keys], 0 where a key is padding; None: nothing is.
            blocks: of a prefill int64 [B, q], tokens of one number see each other both ways; None: all are causal.
        """
        if blocks is not None:
            return two_way_mask(self.model, self.slides(layer), hidden, live, blocks)
        make = create_sliding_window_causal_mask if self.slides(layer) else create_causal_mask
        return make(
            config=self.model.config,
            inputs_embeds=hidden,
            attention_mask=live,
            past_key_values=cache,
            position_ids=None,
            layer_idx=layer,
        )


def find_decoder(model: nn.Module, kinds: Mapping[str, str] = SUPPORTED) -> LanguageDecoder:
    """The decoder that `model` is or holds, of one of these kinds.

    Raises:
        FlowCutError: none is found, or only one of a kind that is not supported.
    """
    for candidate in parts_of(model, DECODER_NAMES):
        if hasattr(candidate, "layers") and model_type(candidate) in kinds:
            parts = cast(Any, candidate)
            return LanguageDecoder(parts, list(parts.layers), int(parts.config.num_attention_heads))
    raise FlowCutError(
        f"There is no supported language model in this {model_type(model)!r} model: give a decoder of the kinds "
        f"{', '.join(kinds.values())}, with its head or without."
    )
