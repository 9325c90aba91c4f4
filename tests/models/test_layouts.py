"""Folders that hold a model in another form than transformers': named truly, before anything large is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowcut
from tests import tiny
from tests.models.hub_server import Hub, Repository, ask_instead


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(name: str | Path, sentence: str, **options: Any) -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match=sentence) as caught:
        flowcut.load(name, **options)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert "copy it again" not in str(caught.value)


def tell(folder: Path, **changes: Any) -> None:
    """Change config.json; None takes an entry out."""
    path = folder / "config.json"
    told = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


def as_the_authors_name_them(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {}
    for name, weight in weights.items():
        new = name.removeprefix("language_model.")
        if "projector" in name:
            new = name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
            new = new.replace("multi_modal_projector.linear_2", "model.mm_projector.2")
        elif "vision_tower" in name:
            new = "model.vision_tower." + name
        named[new] = weight
    return named


MM = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}


@pytest.mark.parametrize(
    "told",
    [
        {"architectures": ["LlavaLlamaForCausalLM"], **MM},
        {"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral", **MM},
        {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", **MM},
        {"architectures": None, "vision_config": None, **MM},
    ],
    ids=["1.5", "1.6 mistral", "onevision", "no class"],
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_llava_authors_own_layout(folder: Path, told: dict[str, Any], kind: str) -> None:
    """Fault 22."""
    weights = as_the_authors_name_them(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model-00001-of-00002.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tell(folder, **told)
    refused(folder, r"layout of the LLaVA authors' own code .* choose the same model converted for transformers")


def test_weights_in_another_layout_under_a_configuration_of_transformers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {f"other.code.{place}": weight for place, weight in enumerate(weights.values())}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"other names than transformers gives them \(the first is other\.code\.0\)")


def test_the_layout_is_known_before_the_weights_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(folder, architectures=["LlavaLlamaForCausalLM"], **MM)
    with served("someone/a-model", folder, monkeypatch):
        refused("someone/a-model", "layout of the LLaVA authors' own code")


@contextmanager
def served(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub has this folder, and its weights must not be fetched."""
    hub, repository = Hub(), Repository(folder)
    hub.repositories[name] = repository
    with TemporaryDirectory() as cache:
        ask_instead(hub, Path(cache), monkeypatch)
        try:
            yield
        finally:
            hub.close()
    assert repository.asked == []


ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"})


def test_an_adapter_alone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(ADAPTER)
    save_file({"lora_A": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, r"holds an adapter \(adapter_config\.json\) for llava-hf/llava-1\.5-7b-hf, not a whole model")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, r"for a base model, not a whole model: load both with peft, call merge_and_unload\(\)")


def test_an_adapter_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text(ADAPTER)
    with served("someone/a-lora", tmp_path, monkeypatch):
        refused("someone/a-lora", r"someone/a-lora holds an adapter \(adapter_config\.json\) for llava-hf/")


def test_a_repository_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served("someone/files", tmp_path, monkeypatch):
        refused("someone/files", r"someone/files holds no config\.json on the hub: give the id of a transformers")


def test_an_adapter_beside_a_model_would_not_be_applied(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(ADAPTER)
    refused(folder, r"an adapter \(adapter_config\.json\) beside the model, which would not be applied: merge it")


def test_code_of_its_own_is_named(folder: Path) -> None:
    tell(folder, model_type="internvl_chat_9", auto_map={"AutoConfig": "configuration_internvl_chat.C"})
    refused(folder, r"'internvl_chat_9' model, which is not supported, and the code that comes with it is never run")
