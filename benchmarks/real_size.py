"""LLaVA-1.5-7B at its real shapes, with random weights: what is kept, what it costs, what it holds in memory.

No accuracy: the weights mean nothing. Token counts, memory and times need no more than the shapes. The vision tower
and the projector are whole; the language model may be cut in depth to what the machine holds, which the result says.

    python -m benchmarks.real_size --decoder-layers 8        # writes benchmarks/real_size.md and .json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import flowcut
from flowcut.memory import reset_peak, resident_peak

IMAGE_TOKEN = 32_000
TEXT_TOKENS = 40
"""Of a usual prompt: LLaVA-1.5's system line, a short question, the role words."""
ANSWER_TOKENS = 16
DEPTH = 32
BUDGETS = (192, 128, 64)


def config(decoder_layers: int) -> LlavaConfig:
    """As in llava-hf/llava-1.5-7b-hf."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(vocab_size=32_064, num_hidden_layers=decoder_layers, max_position_embeddings=4096)
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def random_model(decoder_layers: int, dtype: torch.dtype, device: torch.device) -> Any:
    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration(config(decoder_layers))
    model = model.to(dtype).to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
            elif "inv_freq" in name:
                head = 4096 // 32
                buffer.copy_(1.0 / 10_000 ** (torch.arange(0, head, 2) / head))
    return model.eval()


def prompt(device: torch.device) -> dict[str, Tensor]:
    """One picture of noise and a prompt of ordinary length."""
    torch.manual_seed(1)
    text = torch.randint(5, 30_000, (TEXT_TOKENS,))
    ids = torch.cat([text[:5], torch.full((576,), IMAGE_TOKEN), text[5:]])[None]
    pixels = torch.randn(1, 3, 336, 336)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device), "pixel_values": pixels}


def measure(model: Any, tokens: int | None, stock: bool) -> dict[str, Any]:
    """One answer: seconds of the vision stage and of the rest, visual tokens at the door, KV bytes, peak memory."""
    counted, inputs, door = reset_peak(), prompt(model.device), []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: door.append(int(kwargs["inputs_embeds"].shape[1])), with_kwargs=True
    )
    generation = {"max_new_tokens": ANSWER_TOKENS, "min_new_tokens": ANSWER_TOKENS, "do_sample": False}
    started = time.perf_counter()
    try:
        if stock:
            pixels = inputs.pop("pixel_values").to(model.dtype)
            features = model.get_image_features(pixel_values=pixels, return_dict=True)
            seen = time.perf_counter()
            out = model.generate(
                **inputs, mm_encoder_outputs={"image": features}, return_dict_in_generate=True, **generation
            )
        else:
            cut = None if tokens is None else flowcut.FlowCut(tokens=tokens)
            with flowcut.prune(model, cut=cut, record=False) as session:
                prepared = session.prepare(inputs)
                seen = time.perf_counter()
                out = model.generate(**prepared, return_dict_in_generate=True, **generation)
    finally:
        hook.remove()
    ended = time.perf_counter()
    layers = out.past_key_values.layers
    kv_bytes = sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))
    return {
        "vision_seconds": seen - started,
        "language_seconds": ended - seen,
        "visual_tokens": door[0] - TEXT_TOKENS,
        "kv_bytes": kv_bytes,
        "peak_bytes": resident_peak() if counted else None,
    }


def table(results: dict[str, dict[str, Any]], facts: str) -> str:
    stock = results["stock"]
    head = "| run | visual tokens at the door | vision / stock | language / stock | KV cache, MB | peak memory, GB |"
    lines = ["# LLaVA-1.5-7B at its real shapes", "", facts, "", head, "|-|-|-|-|-|-|"]
    for name, row in results.items():
        ratios = (row[stage] / stock[stage] for stage in ("vision_seconds", "language_seconds"))
        peak = "not counted" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
        cells = (
            name,
            row["visual_tokens"],
            *(f"{ratio:.2f}" for ratio in ratios),
            f"{row['kv_bytes'] / 1e6:.0f}",
            peak,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def facts_of(model: Any, arguments: argparse.Namespace, stock: dict[str, Any]) -> str:
    parameters = sum(weight.numel() for weight in model.parameters())
    return (
        f"Random weights, {parameters / 1e9:.2f} G parameters, {arguments.decoder_layers} of {DEPTH} decoder layers, "
        f"{arguments.dtype}, {model.device.type}, {torch.get_num_threads()} threads; one picture, {TEXT_TOKENS} text "
        f"tokens, {ANSWER_TOKENS} answer tokens, greedy, one run each. Stock took {stock['vision_seconds']:.1f} s for "
        f"the picture and {stock['language_seconds']:.1f} s for the rest. torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {platform.machine()}. Written by `python -m benchmarks.real_size`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder-layers", type=int, default=DEPTH, help=f"of {DEPTH}; fewer where memory is short")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(arguments.decoder_layers, getattr(torch, arguments.dtype), device)
    runs: dict[str, tuple[int | None, bool]] = {"stock": (None, True), "nothing cut": (None, False)}
    runs |= {f"FlowCut {tokens}": (tokens, False) for tokens in BUDGETS}
    with torch.no_grad():
        measure(model, 64, stock=False)  # warms up
        results = {name: measure(model, *run) for name, run in runs.items()}
    facts = facts_of(model, arguments, results["stock"])
    folder = Path(__file__).parent
    (folder / "real_size.json").write_text(json.dumps({"facts": facts, "runs": results}, indent=1) + "\n")
    (folder / "real_size.md").write_text(table(results, facts))
    print(table(results, facts))


if __name__ == "__main__":
    main()
