"""Qwen3-VL and Qwen3.5 as they are published: configuration, processor and chat template, without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import flowcut
from flowcut.families import family_of
from tests import tiny_qwen3

TAIL = {"Qwen3VL": "", "Qwen3_5": "<think>\n\n</think>\n\n"}
"""What the template of Qwen3.5 writes where thinking is off."""


@pytest.mark.parametrize("kind", tiny_qwen3.KINDS)
def test_the_published_configuration(kind: str, tmp_path: Path) -> None:
    """Whose parts are named as old releases of transformers named them."""
    (tmp_path / "config.json").write_text(json.dumps(tiny_qwen3.PUBLISHED[kind]))
    config = AutoConfig.from_pretrained(tmp_path)
    family = family_of(config)
    assert (family.model_class, family.processor_class) == (config.architectures[0], "Qwen3VLProcessor")
    assert any(name.startswith("Qwen/Qwen3") for name in family.published)
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config)
    encoder = flowcut.encoder.recording.find_encoder(built)
    assert len(encoder.layers) == config.vision_config.depth
    assert list(encoder.early_mergers) == ([5, 11, 17] if kind == "Qwen3VL" else [])
    images = Qwen2VLImageProcessorPil(**tiny_qwen3.PREPROCESSOR)
    (geometry,) = family.geometries(built, images, (640, 480))
    grid = images(images=[Image.new("RGB", (640, 480))], return_tensors="pt")["image_grid_thw"][0]
    assert grid.tolist() == [1, geometry.grid_rows, geometry.grid_cols] == [1, 30, 40]


@pytest.mark.parametrize("kind", tiny_qwen3.KINDS)
def test_the_published_templates_hold_what_they_are_asked(kind: str) -> None:
    family = family_of(tiny_qwen3.config(kind))
    text = family.prompt(tiny_qwen3.processor(kind), "What is it?", "Be brief.")
    asked = f"<|im_start|>user\n{tiny_qwen3.PICTURE}What is it?<|im_end|>\n<|im_start|>assistant\n"
    assert text == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}{TAIL[kind]}"
