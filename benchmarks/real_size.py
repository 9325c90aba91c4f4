"""LLaVA-1.5-7B and LLaVA-NeXT-7B at their real shapes, random weights: what is kept, what it costs, what it holds.

No accuracy: the weights mean nothing. Token counts, memory and times need no more than the shapes. The vision tower
and the projector are complete; the language model may have fewer layers where the machine holds no more, which the
result says. All ways are run in turn, round by round, each stated as the median ratio to the stock run of its own
round, so that other work on the machine slows all alike.

    python -m benchmarks.real_size                                          # writes benchmarks/real_size.md and .json
    python -m benchmarks.real_size --models next --decoder-layers 8         # that model only, the others' tables stay
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

import flowcut
from flowcut.families import family_of
from flowcut.families.family import IMAGE
from flowcut.models.memory import reset_peak, resident_peak

IMAGE_TOKEN = 32_000
TEXT_TOKENS = 40
"""Of a usual prompt: LLaVA-1.5's system line, a short question, the role words."""
ANSWER_TOKENS = 16
DEPTH = 32
SIDE = 336
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def shared_config(decoder_layers: int) -> dict[str, Any]:
    """What both models share: CLIP-L/336 and Vicuna-7B, by the numbers in their config files."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(vocab_size=32_064, num_hidden_layers=decoder_layers, max_position_embeddings=4096)
    return {
        "vision_config": vision.to_dict(),
        "text_config": text.to_dict(),
        "image_token_index": IMAGE_TOKEN,
        "image_seq_length": 576,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def llava(decoder_layers: int) -> Any:
    """As in llava-hf/llava-1.5-7b-hf."""
    return LlavaForConditionalGeneration(LlavaConfig(**shared_config(decoder_layers)))


def llava_next(decoder_layers: int) -> Any:
    """As in llava-hf/llava-v1.6-vicuna-7b-hf."""
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(**shared_config(decoder_layers), image_grid_pinpoints=PINPOINTS)
    )


@dataclass(frozen=True)
class Shape:
    """One model, the picture that it is asked about, and the budgets."""

    title: str
    build: Callable[[int], Any]
    pictures: dict[str, tuple[int, ...] | list[list[int]]]
    """What its processor gives beside the text: the shape of the pixels, and sizes where it gives them."""
    budgets: tuple[int, ...]
    note: str = ""
    """What a reader of its table must know."""


SHAPES = {
    "llava": Shape("LLaVA-1.5-7B", llava, {"pixel_values": (1, 3, SIDE, SIDE)}, (192, 128, 64)),
    "next": Shape(
        "LLaVA-NeXT-7B, a square picture in five tiles",
        llava_next,
        {"pixel_values": (1, 5, 3, SIDE, SIDE), "image_sizes": [[672, 672]]},
        (640, 320, 160),
        "Each of the five tiles brings half the budget to the decoder's input (`official`); the decoder's layer 1 then "
        "keeps the budget.",
    ),
}


def random_model(build: Callable[[int], Any], decoder_layers: int, dtype: torch.dtype, device: torch.device) -> Any:
    """Weights made on the device in their own dtype: nothing larger is ever held."""
    with torch.device("meta"):
        model = build(decoder_layers)
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


def prompt(model: Any, shape: Shape) -> dict[str, Tensor]:
    """One picture of noise and a prompt of ordinary length."""
    torch.manual_seed(1)
    text = torch.randint(5, 30_000, (TEXT_TOKENS,))
    given = {
        name: torch.randn(kind) if isinstance(kind, tuple) else torch.tensor(kind)
        for name, kind in shape.pictures.items()
    }
    count = family_of(model.config).placeholders(model, IMAGE, given)[0]
    ids = torch.cat([text[:5], torch.full((count,), IMAGE_TOKEN), text[5:]])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**{name: value.to(model.device) for name, value in inputs.items()}, **given}


def measure(model: Any, shape: Shape, tokens: int | None, stock: bool) -> dict[str, Any]:
    """One answer: seconds of the vision stage and of the rest, visual tokens read, KV bytes, peak memory."""
    counted, inputs, read = reset_peak(), prompt(model, shape), []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(int(kwargs["inputs_embeds"].shape[1])), with_kwargs=True
    )
    generation = {"max_new_tokens": ANSWER_TOKENS, "min_new_tokens": ANSWER_TOKENS, "do_sample": False}
    started = time.perf_counter()
    try:
        if stock:
            pictures = {name: inputs.pop(name).to(model.device) for name in shape.pictures}
            pictures["pixel_values"] = pictures["pixel_values"].to(model.dtype)
            features = model.get_image_features(**pictures, return_dict=True)
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
    kv_bytes = sum(held.numel() * held.element_size() for layer in layers for held in (layer.keys, layer.values))
    return {
        "vision_seconds": seen - started,
        "language_seconds": ended - seen,
        "visual_tokens": read[0] - TEXT_TOKENS,
        "kv_bytes": kv_bytes,
        "peak_bytes": resident_peak() if counted else None,
    }


def in_turn(model: Any, shape: Shape, rounds: int) -> dict[str, dict[str, Any]]:
    """Every way once a round; counts of the last round, and times as median ratios to stock of the same round."""
    ways: dict[str, tuple[int | None, bool]] = {"stock": (None, True), "nothing cut": (None, False)}
    ways |= {f"FlowCut {tokens}": (tokens, False) for tokens in shape.budgets}
    with torch.no_grad():
        measure(model, shape, shape.budgets[-1], stock=False)  # a warm-up run
        found = [{name: measure(model, shape, *way) for name, way in ways.items()} for _ in range(rounds)]
    results: dict[str, dict[str, Any]] = {}
    for name in ways:
        results[name] = dict(found[-1][name])
        for stage in ("vision_seconds", "language_seconds"):
            results[name][stage] = statistics.median(one[name][stage] for one in found)
            ratios = [one[name][stage] / one["stock"][stage] for one in found]
            results[name][stage.replace("seconds", "ratio")] = statistics.median(ratios)
    return results


def table(title: str, results: dict[str, dict[str, Any]], facts: str) -> str:
    """One model's results as Markdown."""
    head = "| run | visual tokens read | vision / stock | language / stock | KV cache, MB | peak memory, GB |"
    note = next((shape.note for shape in SHAPES.values() if shape.title == title), "")
    lines = [f"## {title}", "", f"{facts} {note}".strip(), "", head, "|-|-|-|-|-|-|"]
    for name, row in results.items():
        ratios = (f"{row[stage]:.2f}" for stage in ("vision_ratio", "language_ratio"))
        peak = "not counted" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
        cells = (name, row["visual_tokens"], *ratios, f"{row['kv_bytes'] / 1e6:.0f}", peak)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def facts_of(model: Any, arguments: argparse.Namespace, stock: dict[str, Any]) -> str:
    """What was run, and where."""
    parameters = sum(weight.numel() for weight in model.parameters())
    return (
        f"Random weights, {parameters / 1e9:.2f} G parameters, {arguments.decoder_layers} of {DEPTH} decoder layers, "
        f"{arguments.dtype}, {model.device.type}, {torch.get_num_threads()} threads; one picture, {TEXT_TOKENS} text "
        f"tokens, {ANSWER_TOKENS} answer tokens, greedy. Ways in turn, {arguments.rounds} round(s), on a machine with "
        f"other work. Stock took {stock['vision_seconds']:.1f} s for the picture and {stock['language_seconds']:.1f} s "
        "for the rest."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder-layers", type=int, default=DEPTH, help=f"of {DEPTH}; fewer where memory is short")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--table", action="store_true", help="run nothing, write the tables of what was run")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(__file__).parent
    stored = folder / "real_size.json"
    kept: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    for name in [] if arguments.table else arguments.models:
        shape = SHAPES[name]
        model = random_model(shape.build, arguments.decoder_layers, getattr(torch, arguments.dtype), device)
        results = in_turn(model, shape, arguments.rounds)
        facts = facts_of(model, arguments, results["stock"])
        kept[shape.title] = {"facts": facts, "runs": results}
        stored.write_text(json.dumps(kept, indent=1) + "\n")
        del model
    tables = [table(title, one["runs"], one["facts"]) for title, one in kept.items()]
    text = "\n".join(["# Models at their real shapes", "", VERSIONS, "", *tables])
    (folder / "real_size.md").write_text(text)
    print(text)


VERSIONS = (
    "Counts, memory and times only: random weights have no accuracy. KV cache and peak memory "
    f"are those of the layers that were run. torch {torch.__version__}, transformers {transformers.__version__}, "
    f"{platform.machine()}. Written by `python -m benchmarks.real_size`."
)


if __name__ == "__main__":
    main()
