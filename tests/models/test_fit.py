"""Which published model a machine has room for, and what of it is here; with an empty cache of our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from flowcut.families import FAMILIES
from flowcut.models import cache
from flowcut.models.fit import Machine, smallest
from flowcut.published import FAMILY_NAMES, MODEL_TYPES, PUBLISHED, published_models
from tests import tiny

GB = 10**9
ROOMY = Machine("cpu", 100 * GB, 1000 * GB, Path("/nowhere"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def keep(name: str, weights: tuple[str, ...] = ("model.safetensors",), complete: bool = True) -> None:
    """Files of a model as the hub's client keeps them; not complete: the weights are the start of a blob."""
    place = cache.model_folder(name)
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "blobs").mkdir()
    for file in ("config.json", "preprocessor_config.json", *(weights if complete else ())):
        (place / "blobs" / file).write_bytes(bytes(100))
        (snapshot / file).symlink_to(place / "blobs" / file)
    if not complete:
        (place / "blobs" / f"123{cache.INCOMPLETE}").write_bytes(bytes(5000))


def test_every_published_model_once_with_its_family() -> None:
    names = [model.name for model in published_models()]
    assert len(names) == len(set(names))
    assert set(names) == {name for ids in PUBLISHED.values() for name in ids}
    assert all(model.model_type == MODEL_TYPES[model.name] for model in published_models())
    assert all(FAMILY_NAMES.get(kind, FAMILIES[kind].name) == FAMILIES[kind].name for kind in PUBLISHED)


def test_sizes_are_those_of_weights() -> None:
    """16 or 32 bits a number, and little besides."""
    for model in published_models():
        if model.size is not None:
            assert 1.8 <= model.size.download / model.size.parameters <= 4.2, model.name


def test_the_smallest_that_fits() -> None:
    sizes = {model.name: model.size for model in published_models() if model.size and not model.size.gated}
    found = smallest(ROOMY)
    assert found is not None
    assert sizes[found.model.name] == min(sizes.values(), key=lambda size: size.parameters)
    assert found.missing == sizes[found.model.name].download


@pytest.mark.parametrize("short", [Machine("cpu", GB // 10, 1000 * GB, Path()), Machine("cpu", 100 * GB, 1, Path())])
def test_none_fits(short: Machine) -> None:
    assert smallest(short) is None


def test_nobody_says_how_much_is_free() -> None:
    assert smallest(Machine("mps", None, None, Path())) is not None


def test_one_that_is_here_goes_first() -> None:
    keep("Qwen/Qwen2-VL-2B-Instruct")
    found = smallest(ROOMY)
    assert found is not None
    assert (found.model.name, found.missing) == ("Qwen/Qwen2-VL-2B-Instruct", 0)
    needs_no_disk = smallest(Machine("cpu", 100 * GB, 0, Path()))
    assert needs_no_disk is not None
    too_large = smallest(Machine("cpu", 4 * GB, 100 * GB, Path()))
    assert too_large is not None
    assert too_large.model.name != "Qwen/Qwen2-VL-2B-Instruct"


def test_what_is_half_here_goes_on() -> None:
    first = smallest(ROOMY)
    assert first is not None
    keep(first.model.name, complete=False)
    found = smallest(ROOMY)
    assert found is not None
    assert found.model == first.model
    assert not found.here.complete
    assert found.missing == (first.missing or 0) - found.here.bytes
    assert cache.partial_bytes(first.model.name) == 5000


def test_shards_that_are_missing(folder: Path) -> None:
    name = "llava-hf/llava-1.5-7b-hf"
    keep(name, ("model-1.safetensors", "model-2.safetensors"))
    snapshot = cache.complete_snapshot(name)
    assert snapshot is not None
    (snapshot / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}'
    )
    assert cache.complete_snapshot(name) is None


def test_numbers_are_counted_from_headers(tmp_path: Path) -> None:
    model = tiny.llava()
    model.save_pretrained(tmp_path)
    assert cache.numbers_in(tmp_path) == sum(weight.numel() for weight in model.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"no safetensors file")
    with pytest.raises(ValueError, match="broken"):
        cache.numbers_in(tmp_path)


def test_a_broken_link_is_not_complete() -> None:
    keep("Qwen/Qwen2-VL-2B-Instruct")
    (cache.model_folder("Qwen/Qwen2-VL-2B-Instruct") / "blobs" / "model.safetensors").unlink()
    assert not cache.cached("Qwen/Qwen2-VL-2B-Instruct").complete


def test_this_machine_without_torch() -> None:
    """Nothing else imports it either, so that the command line is quick."""
    program = (
        "import sys\n"
        "from flowcut.models.fit import machine\n"
        "found = machine(may_import_torch=False)\n"
        "assert found.disk > 0\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False False\n"
