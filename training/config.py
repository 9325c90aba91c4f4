"""Shapes of the embedded model, in one place: the stock LLaVA configuration that every stage builds on."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

VISION = CLIPVisionConfig(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=12,
    num_attention_heads=4,
    image_size=336,
    patch_size=14,
    hidden_act="gelu",
    projection_dim=128,
)

FEATURE_LAYER = -2
"""As in LLaVA-1.5: the output of the last layer but one, CLS dropped, is what the projector reads."""


def text_config(vocab_size: int, special_ids: dict[str, int]) -> LlamaConfig:
    """The language model. Positions reach far enough for 576 patches, a long question and a long answer."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=special_ids["bos_token_id"],
        eos_token_id=special_ids["eos_token_id"],
        pad_token_id=special_ids["pad_token_id"],
    )


def llava_config(vocab_size: int, image_token_id: int, special_ids: dict[str, int]) -> LlavaConfig:
    return LlavaConfig(
        vision_config=VISION.to_dict(),
        text_config=text_config(vocab_size, special_ids).to_dict(),
        image_token_index=image_token_id,
        image_seq_length=576,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
