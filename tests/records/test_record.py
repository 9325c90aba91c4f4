"""FlowRecord: round trip, refusal of what is damaged, geometry, one picture out of a batch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import flowcut
from flowcut.records.vision import FlowRecord, Geometry
from tests import tiny

GEOMETRY = Geometry(600, 400, 504, 336, 84, 0, 336, 336, 14, 24, 24)


def record(cut: flowcut.CutConfig | None = None, batch: int = 2) -> FlowRecord:
    with torch.no_grad(), flowcut.record(tiny.clip(), cut or flowcut.FlowCut(tokens=9)) as rec:
        tiny_out = rec.encoder.model(tiny.pixels(batch))
    assert tiny_out is not None
    return replace(
        rec.record, geometries=(GEOMETRY,) * batch, model_id="tiny", revision="abc", notes=("größer als 1 & \u200f",)
    )


def same(one: Any, two: Any) -> None:
    """Equal to the bit, field by field, dtypes included."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif isinstance(a, tuple) and a and hasattr(a[0], "__dataclass_fields__"):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                same(x, y)
        elif hasattr(a, "__dataclass_fields__"):
            same(a, b)
        else:
            assert a == b, field.name


@pytest.mark.parametrize(
    "cut",
    [
        flowcut.FlowCut(tokens=9),
        flowcut.FlowCut(tokens=9, variant="paper", per_image=True),
        flowcut.Cut("random", tokens=9, seed=3),
        flowcut.FlowCut(tokens=500),
    ],
    ids=lambda cut: cut.title,
)
def test_round_trip(tmp_path: Path, cut: flowcut.CutConfig) -> None:
    written = record(cut, batch=3)
    path = written.save(tmp_path / "a.safetensors")
    same(written, FlowRecord.load(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_records_made_before_twins_were_kept_still_load(tmp_path: Path) -> None:
    made = record()
    assert any(flow.nearest_kept_id is not None for flow in made.layers)
    old = replace(
        made, layers=tuple(replace(flow, nearest_kept_id=None, nearest_kept_cosine=None) for flow in made.layers)
    )
    read = FlowRecord.load(old.save(tmp_path / "old"))
    same(old, read)
    assert read.image(1).layers[0].nearest_kept_id is None


def test_matrices_round_trip(tmp_path: Path) -> None:
    with torch.no_grad(), flowcut.record(tiny.clip(), flowcut.FlowCut(tokens=9), matrices=True) as rec:
        rec.encoder.model(tiny.pixels())
    same(rec.record, FlowRecord.load(rec.record.save(tmp_path / "a")))


def test_a_record_without_layers_round_trips(tmp_path: Path) -> None:
    with torch.no_grad(), flowcut.record(tiny.clip(), flowcut.FlowCut(tokens=9), flows=False) as rec:
        rec.encoder.model(tiny.pixels())
    same(rec.record, FlowRecord.load(rec.record.save(tmp_path / "a")))


def test_a_record_of_before_mass_was_taken_by_head_still_loads(tmp_path: Path) -> None:
    written = record(batch=1)
    older = replace(written, layers=tuple(replace(layer, received_by_head=None) for layer in written.layers))
    same(older, FlowRecord.load(older.save(tmp_path / "older")))
    stored = next((Path(__file__).parents[2] / "assets" / "examples").glob("*/full/*/record.safetensors"))
    assert FlowRecord.load(stored).layers[0].received_mass.sum() == pytest.approx(577, rel=1e-4)


def test_a_record_loads_without_torch(tmp_path: Path) -> None:
    path = record().save(tmp_path / "a.safetensors")
    code = (
        "import sys; from flowcut.record import FlowRecord; r = FlowRecord.load(sys.argv[1]); "
        "assert not {'torch', 'transformers'} & set(sys.modules); print(r.kept_patch_ids.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 9)"


def test_a_flipped_byte_anywhere_is_refused(tmp_path: Path) -> None:
    whole = record(batch=1).save(tmp_path / "a.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [0, 3, 9, 20, header // 2, header - 40, header + 1, (header + len(whole)) // 2, len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path = tmp_path / f"{place}.safetensors"
        path.write_bytes(bytes(damaged))
        with pytest.raises(flowcut.InvalidRecord, match=r"damaged|not a flowcut record"):
            FlowRecord.load(path)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_a_cut_short_record_is_refused(tmp_path: Path, keep: int) -> None:
    whole = record(batch=1).save(tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(whole[:keep])
    with pytest.raises(flowcut.InvalidRecord, match="damaged"):
        FlowRecord.load(path)


def test_another_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    facts = json.dumps({"format": "flowcut-record", "version": 7})
    save_file({"x": np.zeros(1)}, path, metadata={"record": facts, "checksum": ""})
    with pytest.raises(flowcut.InvalidRecord, match=r"version 7, this flowcut reads versions 2 and 3"):
        FlowRecord.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"x": np.zeros(3)}, weights)
    text = tmp_path / "record.safetensors"
    text.write_text("hello, this is a letter and not a record at all")
    for path in (weights, text, tmp_path / "missing", tmp_path):
        with pytest.raises(flowcut.InvalidRecord) as caught:
            FlowRecord.load(path)
        assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record().save(tmp_path / "a.safetensors")
    whole = path.read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="space"):
        record(batch=1).save(path)
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_boxes_lie_on_the_original_picture() -> None:
    scale = 600 / 504
    assert GEOMETRY.box(0) == pytest.approx((84 * scale, 0, 98 * scale, 14 * scale))
    assert GEOMETRY.box(575) == pytest.approx((406 * scale, 322 * scale, 420 * scale, 400))
    assert GEOMETRY.boxes().shape == (576, 4)
    assert GEOMETRY.seen_box() == pytest.approx((100, 0, 500, 400))
    for patch_id in (-1, 576):
        with pytest.raises(IndexError, match="24 x 24"):
            GEOMETRY.box(patch_id)


def test_padding_is_not_seen_picture() -> None:
    padded = Geometry(100, 50, 336, 168, 0, -84, 336, 336, 14, 24, 24)
    assert padded.box(0)[1] < 0
    assert padded.seen_box() == pytest.approx((0, 0, 100, 50))


def test_one_picture_of_a_batch() -> None:
    whole = record(batch=3)
    one = whole.image(2)
    assert one.batch == 1
    np.testing.assert_array_equal(one.kept_patch_ids[0], whole.kept_patch_ids[2])
    np.testing.assert_array_equal(one.layers[1].cls_row[0], whole.layers[1].cls_row[2])
    assert [step.requested for step in one.steps] == [step.requested for step in whole.steps]
    for index in (-1, 3):
        with pytest.raises(IndexError, match="record of 3"):
            whole.image(index)


def test_a_clip_large_record_is_about_two_megabytes(tmp_path: Path) -> None:
    """24 layers, 16 heads, 577 tokens, cut to 64: the shapes decide, so narrow heads will do."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    model = CLIPVisionModel(config).eval()
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=64)) as rec:
        model(torch.randn(1, 3, 336, 336))
    size = rec.record.save(tmp_path / "large.safetensors").stat().st_size
    assert 1_000_000 < size < 3_100_000
