"""Loading by name, and every way in which that can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import MllamaConfig

import flowcut
from flowcut.models import loading
from tests import tiny, tiny_qwen, tiny_video


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(name: str | Path, sentence: str) -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match=sentence) as caught:
        flowcut.load(name)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_folder_loads_and_says_what_it_does(whole: Path) -> None:
    told: list[tuple[float | None, str]] = []
    model = flowcut.load(whole, progress=lambda fraction, text: told.append((fraction, text)))
    assert told[-1] == (1.0, "Ready")
    assert (model.n_layers, model.n_heads, model.n_patches) == (6, 4, tiny.N_PATCHES)
    assert model.family.name == "LLaVA-1.5"
    assert model.id == str(whole)
    assert len(model.revision or "") == 12
    assert not model.model.training


def test_the_revision_is_of_the_weights(whole: Path, folder: Path) -> None:
    assert flowcut.load(folder).revision == flowcut.load(whole).revision
    tiny.llava(seed=1).save_pretrained(folder)
    assert flowcut.load(folder).revision != flowcut.load(whole).revision


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "bfloat16"), (torch.float16, "float16"), (None, "float32")])
def test_dtype(whole: Path, dtype: str | torch.dtype | None, name: str) -> None:
    assert flowcut.load(whole, device="cpu", dtype=dtype).dtype == name


def test_dtypes_and_devices_that_are_not_there(whole: Path) -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match=r"'int8': choose one of float32"):
        flowcut.load(whole, dtype="int8")
    for device in ("tpu9", "cuda:99"):
        with pytest.raises(flowcut.ModelNotLoaded, match=f"'{device}' is not available here"):
            flowcut.load(whole, device=device)


def test_memory_decides_on_a_cpu(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = sum(weight.numel() for weight in flowcut.load(whole).model.parameters())
    monkeypatch.setattr(loading.memory, "free", lambda: 4 * parameters)
    assert flowcut.load(whole, device="cpu").dtype == "bfloat16"
    assert flowcut.load(whole, device="cpu", dtype="float32").dtype == "float32"


def test_what_does_not_fit_is_said_before_it_is_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.memory, "free", lambda: 1000)
    monkeypatch.setattr(loading, "_model", lambda *_: pytest.fail("The weights were read."))
    with pytest.raises(flowcut.ModelNotLoaded, match=r"needs 0\.0 GB in float16, and 0\.0 GB are free on cpu"):
        flowcut.load(whole, device="cpu", dtype="float16")


def test_processors_that_forgot_what_they_need_are_told(folder: Path) -> None:
    path = folder / "processor_config.json"
    facts = json.loads(path.read_text())
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        facts.pop(name, None)
    path.write_text(json.dumps(facts))
    model = flowcut.load(folder)
    run = flowcut.ask(model, tiny.picture(), "What?", flowcut.FlowCut(tokens=9), max_new_tokens=2)
    assert run.visual_tokens == 9


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none", "a/b/c", "", "model.safetensors/"])
def test_folders_that_are_not_there(name: str) -> None:
    refused(name, "There is no model")


def test_a_file_is_no_folder(whole: Path) -> None:
    refused(whole / "config.json", "There is no model folder")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path, r"no config\.json")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights")
    torch.save({}, folder / "pytorch_model.bin")
    refused(folder, "only weights that are not safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_half_a_weights_file(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(folder, r"model\.safetensors of .* is incomplete: copy it again")


def test_weights_that_are_missing(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    gone = next(name for name in weights if "layers.3" in name and "fc1" in name)
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    refused(folder, r"incomplete: 1 weights are missing, the first is .*fc1")


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny.llava().save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert flowcut.load(folder).n_layers == 6
    shards[1].unlink()
    refused(folder, "cannot be loaded|incomplete")


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 50
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, r"not of the shapes in its config\.json")


def test_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")
    refused(folder, r"config\.json that cannot be used")


def test_a_configuration_of_no_known_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "made_up_by_us", "auto_map": {"AutoConfig": "x.Y"}}))
    refused(folder, r"'made_up_by_us' model, which is not supported")


def test_another_architecture_is_refused_with_what_is_supported(folder: Path) -> None:
    tiny.vision_config().save_pretrained(folder)
    refused(folder, r"'clip_vision_model' model, which is not supported, since transformers.*: choose LLaVA-1.5")


def test_a_model_that_reads_pictures_by_cross_attention_is_refused_with_that_reason(folder: Path) -> None:
    MllamaConfig().save_pretrained(folder)
    refused(folder, r"'mllama' model .* since its language model reads pictures by cross attention, and not as tokens")


def test_code_that_comes_with_a_model_never_runs(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert flowcut.load(folder).n_layers == 6


def test_a_folder_without_a_processor(folder: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    refused(folder, "processor")


def test_no_such_model_on_the_hub() -> None:
    refused("a name with spaces", "There is no model 'a name with spaces'")


def test_the_embedded_model_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    monkeypatch.setenv(loading.EMBEDDED_VARIABLE, str(whole))
    assert flowcut.load("embedded").n_patches == tiny.N_PATCHES
    monkeypatch.setenv(loading.EMBEDDED_VARIABLE, "/nowhere")
    refused("embedded", r"not in /nowhere: set FLOWCUT_EMBEDDED")


def test_weights_of_a_much_smaller_model_are_refused_before_loading(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(whole, tmp_path / "grown")
    (folder / "config.json").write_text('{"model_type": "llava"}')  # transformers' defaults: 7B
    monkeypatch.setattr(loading, "_model", lambda *_: pytest.fail("The weights were read."))
    with pytest.raises(flowcut.ModelNotLoaded, match=r"is incomplete: its weights hold 0\.\d M numbers"):
        flowcut.load(folder)


def test_a_name_that_no_file_system_takes() -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match="300 characters"):
        flowcut.load("x" * 300)


@pytest.mark.parametrize(
    ("config", "weights", "sentence"),
    [
        ("llava", "llava_next", r"have a part 'image_newline', for which a llava model has no place"),
        ("llava_next", "llava", r"weights are missing, the first is .*image_newline"),
        ("llava", "video", r"are not of the shapes in its config\.json"),
        ("video", "llava", r"are not of the shapes in its config\.json"),
        ("llava", "qwen", r"weights are missing|is incomplete|not of the shapes"),
    ],
)
def test_weights_of_another_family(config: str, weights: str, sentence: str, tmp_path: Path) -> None:
    """A folder put together from two: one sentence, and nothing is loaded."""
    made = {
        "llava": tiny.checkpoint,
        "llava_next": tiny.next_checkpoint,
        "video": lambda folder: tiny_video.checkpoint("VideoLlava", folder),
        "qwen": lambda folder: tiny_qwen.checkpoint("Qwen2VL", folder),
    }
    folder, other = made[config](tmp_path / "config"), made[weights](tmp_path / "weights")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(flowcut.ModelNotLoaded, match=sentence):
        flowcut.load(folder)
