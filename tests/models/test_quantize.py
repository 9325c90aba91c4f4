"""Weights of few bits: quantised while they are read, or packed already; what cannot be is said before any download."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import flowcut
from flowcut.generation.flops import linear_flops
from flowcut.hooks.model_facts import precision_of
from flowcut.models.quantize import planned
from tests import tiny
from tests.models.test_layouts import refused, served, tell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model wide enough to be packed."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=260, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        max_position_embeddings=512,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=tiny.vision_config(4), text_config=text, image_token_index=3, image_seq_length=64
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    return tmp_path


def pack(folder: Path, **quantization: Any) -> None:
    """As AWQ and GPTQ keep weights: eight of 4 bits in one int32."""
    packed: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "language_model" in name and ".layers." in name and weight.ndim == 2:
            rows, cols = weight.shape
            packed[name.replace(".weight", ".qweight")] = torch.zeros(cols, rows // 8, dtype=torch.int32)
            packed[name.replace(".weight", ".qzeros")] = torch.zeros(1, rows // 8, dtype=torch.int32)
            packed[name.replace(".weight", ".scales")] = torch.zeros(1, rows, dtype=torch.float16)
        else:
            packed[name] = weight
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    tell(folder, quantization_config=quantization)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}


@pytest.mark.parametrize("told", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_a_packed_checkpoint_is_not_called_incomplete(
    folder: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 15: without its package it is refused by that package's name, before its weights are fetched."""
    pack(folder, **told)
    sentence = rf"quantised \({told['quant_method']}\), and cannot be read here: run pip install .*, or choose the same"
    refused(folder, sentence)
    with served("someone/packed", folder, monkeypatch):
        refused("someone/packed", sentence)


def test_what_packs_weights_in_a_way_that_nobody_reads(folder: Path) -> None:
    pack(folder, quant_method="made-up", bits=3)
    refused(folder, "quantised by 'made-up', which transformers does not read")


def test_packed_weights_are_not_quantised_again(folder: Path) -> None:
    pack(folder, **AWQ)
    if find_spec("bitsandbytes") is None:
        refused(folder, r"quantize='4bit' on cpu needs bitsandbytes and accelerate", quantize="4bit", device="cpu")
    else:
        refused(folder, r"quantised already \(awq\): leave quantize out", quantize="4bit", device="cpu")


def test_words_and_devices(folder: Path) -> None:
    refused(folder, "quantize is '3bit': choose 8bit or 4bit", quantize="3bit")
    with pytest.raises(flowcut.ModelNotLoaded, match="is for cpu and cuda, and the device is mps"):
        planned("8bit", torch.device("mps"))
    assert planned(None, torch.device("mps")) is None


@pytest.mark.parametrize(
    ("wanted", "needs", "said"),
    [
        ("8bit", "torchao", "float32, weights quantised (torchao, Int8WeightOnlyConfig)"),
        ("4bit", "bitsandbytes", "float32, weights quantised to 4 bits (bitsandbytes)"),
    ],
)
def test_the_language_model_is_quantised_or_its_package_is_named(
    folder: Path, wanted: str, needs: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = flowcut.load(folder, device="cpu")
    if find_spec(needs) is None or (needs == "bitsandbytes" and find_spec("accelerate") is None):
        sentence = rf"quantize='{wanted}' on cpu needs {needs}.*: run pip install 'flowcut-lens\[quantize\]'"
        with served("someone/a-model", folder, monkeypatch):  # said before any download
            refused("someone/a-model", sentence, quantize=wanted, device="cpu")
        return
    model = flowcut.load(folder, device="cpu", quantize=wanted)
    inner = model.model.model
    before = plain.model.model.language_model.layers[0].self_attn.q_proj.weight
    assert type(inner.language_model.layers[0].self_attn.q_proj.weight) is not type(before)
    for name, weight in plain.model.model.vision_tower.named_parameters():
        assert torch.equal(inner.vision_tower.get_parameter(name), weight)
    assert model.dtype == said
    for method in ("flowcut", "fastv"):
        run = flowcut.ask(model, tiny.picture(), "What?", flowcut.Cut(method, tokens=9), max_new_tokens=2)
        whole = flowcut.ask(plain, tiny.picture(), "What?", flowcut.Cut(method, tokens=9), max_new_tokens=2)
        assert run.dtype == model.dtype
        assert run.flops.prefill == whole.flops.prefill


def test_memory_is_checked_for_what_quantised_weights_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowcut.models import checkpoint, loading
    from flowcut.models.quantize import Quantization

    config, weights = checkpoint.read_config(folder, "x"), checkpoint.weight_files(folder, "x")
    sizes = [
        checkpoint.size_of(config, weights, "x", wanted)
        for wanted in (None, Quantization(8, "torchao"), Quantization(4, "bitsandbytes"))
    ]
    plain, eight, four = (size.in_memory(torch.float32) for size in sizes)
    linear = sum(
        part.weight.numel()
        for part in flowcut.load(folder).model.model.language_model.modules()
        if isinstance(part, torch.nn.Linear)
    )
    assert plain - eight == 3 * linear
    assert plain - four == 3.5 * linear
    monkeypatch.setattr(loading.memory, "free", lambda: eight - 1)
    monkeypatch.setattr(loading, "_model", lambda *_: pytest.fail("The weights were read."))
    refused(folder, r"free on cpu: choose a smaller model or another device, quantize it", dtype="float32")


class Packed(torch.nn.Module):
    """A linear layer of a packing library, which is no nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 8, 4
        self.register_buffer("qweight", torch.zeros(8, 1, dtype=torch.int32))


def test_packed_layers_are_counted() -> None:
    assert linear_flops(torch.nn.Sequential(Packed(), torch.nn.Linear(4, 2))) == 2 * (8 * 4 + 4 * 2)


def test_a_record_says_how_weights_are_quantised() -> None:
    model = tiny.clip()
    assert precision_of(model) == "float32"
    model.config.quantization_config = {"quant_method": "awq", "bits": 4}
    assert precision_of(model) == "float32, weights quantised to 4 bits (awq)"
    assert json.dumps(precision_of(model))
