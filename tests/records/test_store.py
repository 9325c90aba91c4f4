"""Runs on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flowcut
from flowcut.records import store
from flowcut.records.run import AnswerToken, Flops, Run, Times
from tests import tiny
from tests.records.test_record import same


def test_times_of_several_runs_are_medians() -> None:
    times = [Times(*(number * seconds for seconds in (1, 2, 3, 4, 5, 6, 7)), unassigned=number) for number in (9, 1, 2)]
    median = Times.median(times)
    assert median == Times(2, 4, 6, 8, 10, 12, 14, unassigned=2, runs=3)
    assert median.total == 42
    older = Times(1, 1, 1, 1, 1, 1)
    assert older.unassigned is None
    assert Times.median([older, times[0]]).unassigned is None
    with pytest.raises(ValueError, match="no times"):
        Times.median([])


def made(answer: str = "a red ball", created: str = "2026-01-01T00:00:00+00:00", recorded: bool = True) -> Run:
    with torch.no_grad(), flowcut.record(tiny.clip(), flowcut.FlowCut(tokens=9)) as rec:
        rec.encoder.model(tiny.pixels())
    tokens = (AnswerToken(7, answer, -0.25, ((1, " blue", -1.5), (2, "\u200f🙂", -2.0))),)
    return Run(
        question="What's <b>this</b>? 🙂 מה", prompt="USER: ...", answer=answer, tokens=tokens,
        cut=flowcut.FlowCut(tokens=9), times=Times(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), visual_tokens=9,
        prompt_tokens=20, kv_bytes=(10, 20), peak_memory_bytes=None, flops=Flops(1.0, 2.0, 3.0, 4.0),
        image_hash="ab" * 32, image_size=(60, 52), model_id="tiny", revision=None, family="LLaVA-1.5",
        dtype="float32", device="cpu", generation={"max_new_tokens": 64, "seed": None}, stopped=False,
        record=rec.record if recorded else None, created=created, notes=("one", "two"),
    )  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    run = made()
    picture = tiny.picture()
    folder = store.save_run(run, picture, tmp_path)
    assert folder == tmp_path / run.id
    again = store.load_run(folder)
    same(replace(run, record=None), replace(again, record=None))
    same(run.record, again.record)
    assert again.id == run.id
    path = store.picture_path(folder)
    assert path is not None
    assert Image.open(path).tobytes() == picture.tobytes()


def test_without_record_or_picture(tmp_path: Path) -> None:
    folder = store.save_run(made(recorded=False), None, tmp_path)
    assert store.load_run(folder).record is None
    assert store.picture_path(folder) is None


def test_the_same_content_has_the_same_place(tmp_path: Path) -> None:
    one = store.save_run(made(), tiny.picture(), tmp_path)
    two = store.save_run(made(created="2027-01-01T00:00:00+00:00"), tiny.picture(), tmp_path)
    other = store.save_run(replace(made(), question="else"), None, tmp_path)
    assert one == two != other
    assert store.load_run(one).created.startswith("2027")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([one.name, other.name])


def test_the_list_is_newest_first_and_passes_over_what_is_broken(tmp_path: Path) -> None:
    runs = [replace(made(), question=str(n), created=f"2026-01-0{n}T00:00:00+00:00") for n in (1, 3, 2)]
    for run in runs:
        store.save_run(run, None, tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "empty").mkdir()
    assert [stored.question for stored in store.list_runs(tmp_path)] == ["3", "2", "1"]
    assert store.list_runs(tmp_path)[0].title == "FlowCut 9 (official)"
    assert store.list_runs(tmp_path / "nowhere") == []


def test_deleting_takes_runs_only(tmp_path: Path) -> None:
    folder = store.save_run(made(), None, tmp_path)
    store.delete(folder)
    assert not folder.exists()
    (tmp_path / "precious").mkdir()
    for other in (folder, tmp_path / "precious", tmp_path):
        with pytest.raises(flowcut.InvalidRecord, match="nothing was deleted"):
            store.delete(other)
    assert (tmp_path / "precious").exists()


def test_an_interrupted_save_leaves_nothing_or_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.save_run(made(), None, tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_run", interrupted)
    for run in (made(), replace(made(), question="new")):
        with pytest.raises(KeyboardInterrupt):
            store.save_run(run, None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert store.load_run(folder).answer == "a red ball"


def test_damaged_runs_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = store.save_run(made(), None, tmp_path)
    path = folder / "run.json"
    facts = json.loads(path.read_text())
    missing = {name: value for name, value in facts.items() if name != "times"}
    contents = ["", "[]", "{}", "{", json.dumps({**facts, "version": 9}), json.dumps({**facts, "format": "x"})]
    for content in (*contents, json.dumps(missing), "\xff"):
        path.write_text(content)
        with pytest.raises(flowcut.InvalidRecord) as caught:
            store.load_run(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(flowcut.InvalidRecord, match="holds no run"):
        store.load_run(tmp_path)


def test_a_run_without_its_record_says_so(tmp_path: Path) -> None:
    folder = store.save_run(made(), None, tmp_path)
    (folder / "record.safetensors").unlink()
    with pytest.raises(flowcut.InvalidRecord, match="no record"):
        store.load_run(folder)


def test_runs_load_without_torch(tmp_path: Path) -> None:
    folder = store.save_run(made(), tiny.picture(), tmp_path)
    code = (
        "import sys; from flowcut.records.store import load_run; run = load_run(sys.argv[1]); "
        "assert not {'torch', 'transformers'} & set(sys.modules); print(run.title)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "FlowCut 9 (official)"


def test_what_was_kept_and_how_it_was_ranked_round_trips(tmp_path: Path) -> None:
    ranking = np.linspace(-1, 2, 64, dtype=np.float32)
    run = replace(made(), final_patch_ids=np.arange(0, 63, 7), ranking=ranking)
    again = store.load_run(store.save_run(run, None, tmp_path))
    assert again.id == made().id
    assert again.final_patch_ids is not None
    assert again.ranking is not None
    np.testing.assert_array_equal(again.final_patch_ids, run.final_patch_ids)
    np.testing.assert_array_equal(again.ranking, ranking)
    assert (again.final_patch_ids.dtype, again.ranking.dtype) == (np.int64, np.float32)


def test_a_run_kept_before_rankings_still_loads(tmp_path: Path) -> None:
    folder = store.save_run(made(), None, tmp_path)
    facts = json.loads((folder / store.RUN_FILE).read_text())
    del facts["final_patch_ids"], facts["ranking"]
    (folder / store.RUN_FILE).write_text(json.dumps(facts))
    assert store.load_run(folder).ranking is None
