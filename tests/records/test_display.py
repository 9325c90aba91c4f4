"""Results in a console: one line each; in a notebook: HTML with everything escaped, and the mask as a picture."""

from __future__ import annotations

import base64
import html
import io
import re
import subprocess
import sys
from dataclasses import is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import flowcut
from flowcut.records import answer_attention, geometry, language, run, studies, vision
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.display import CELL, KEPT_COLOUR, MOST_MASKS, PRUNED_COLOUR, one_line
from flowcut.records.geometry import Geometry
from flowcut.records.language import LanguageRecord
from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord
from tests import tiny
from tests.records.test_record import record
from tests.records.test_store import made

CUT = flowcut.FlowCut(tokens=9)
ODD = '<script>alert(1)</script> & "quotes"\nsecond line \u2028 מה 🙂 ' + "long " * 200
GRID = Geometry(60, 40, 48, 48, 0, 0, 48, 48, tiny.PATCH, 8, 8)


def long_run() -> Run:
    notes = (ODD, "two")
    return replace(made(), question=ODD, answer=ODD, prompt=ODD, model_id=ODD, notes=notes, ranking=np.zeros(64))


def results() -> list[Any]:
    """One of every class of result, with texts and arrays as long as they come."""
    whole = long_run()
    assert whole.record is not None
    large = np.zeros((64, 32, 32, 64), np.float32)
    ids = np.arange(576)
    spans = np.array([[5, 576]])
    return [
        whole, whole.times, whole.flops, whole.record, whole.record.layers[0], whole.record.steps[0], GRID,
        run.AnswerToken(7, ODD, -1 / 3, tuple((i, ODD, -i / 3) for i in range(5))),
        LanguageRecord(ids[None], ids[:1], spans, ids[None], ids[None], ids[None], 2, 32, CUT, notes=(ODD,)),
        AnswerAttention(large, large, large[..., 0], large[..., 0], large[..., 0], ids[:64]),
        studies.AnswerScores(np.zeros((9, 64), np.float32), np.zeros(9, bool), np.zeros(576, np.float32)),
        studies.MethodResult(CUT, whole, np.zeros(64, np.float32), False, ODD),
        studies.PatchRanking(CUT, np.zeros(576, np.float32), ODD),
        studies.KnockOut(3, ids, np.zeros(64), np.zeros(64), -1 / 3, -20 / 3, 1 / 3, 24),
        studies.SubsetEffects(
            block=2, block_of_patch=ids, effect=np.zeros(144), half_agreement=1 / 3, reliability=1 / 2, explained=1 / 3,
            sets=3200, sizes=(16,), exact_match=1 / 3, full=1 / 3, no_image=-20 / 3, done=1 / 3, settled=False,
            grid_cols=24, seed=0, positions="kept",
        ),
        studies.ObjectKnockOut(ODD, ids, ODD, 1 / 3, -1 / 3, -20 / 3, False, True, "kept"),
        studies.RemovalCurves(ODD, np.zeros(21), np.zeros(21), np.zeros(21)),
        studies.SweepPoint(CUT, -1 / 3, False, ODD),
        studies.SmallestBudget(CUT, 12, tuple((n, n > 12) for n in range(1, 100)), True, True),
    ]  # fmt: skip


def test_every_result_is_one_short_line() -> None:
    for result in results():
        line = repr(result)
        assert len(line) <= 200, line
        assert len(line.splitlines()) == 1, line
        assert re.fullmatch(rf"{type(result).__name__}\(.+\)", line)


def test_no_class_of_result_is_left_out() -> None:
    modules = (answer_attention, geometry, language, run, studies, vision)
    here = {c for m in modules for c in vars(m).values() if is_dataclass(c) and c.__module__ == m.__name__}
    assert {type(result) for result in results()} == here


def test_a_run_and_a_record_say_what_they_are() -> None:
    assert repr(made()) == (
        "Run(question=\"What's <b>this</b>? 🙂 מה\", answer='a red ball', cut=FlowCut 9 (official), visual_tokens=9, "
        "tokens=1 AnswerToken, model_id='tiny')"
    )
    assert "cut=None" in repr(replace(made(), cut=None))
    assert repr(record(CUT, batch=1)).startswith(
        "FlowRecord(layers=6 LayerFlow, steps=2 PruneStep, kept_patch_ids=int64 [1, 9], pruned_at_layer=int64 [1, 64]"
    )


def test_what_does_not_fit_is_dots() -> None:
    assert one_line(GRID) == (
        "Geometry(original_width=60, original_height=40, resized_width=48, resized_height=48, crop_left=0, "
        "crop_top=0, input_width=48, input_height=48, patch=6, grid_rows=8, grid_cols=8)"
    )
    assert repr(replace(GRID, view="tile in row 1, column 2")).endswith("grid_cols=8, ...)")


class Page(HTMLParser):
    """What a browser makes of a piece of HTML: its elements, pictures and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def picture(self, place: int = 0) -> np.ndarray:
        """uint8 [rows, columns], a pixel from the inside of each patch."""
        head, data = self.sources[place].split(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[CELL // 2 :: CELL, CELL // 2 :: CELL]


def shown(result: Run | FlowRecord) -> Page:
    page = Page(result._repr_html_())
    assert page.open == []
    return page


def greys(kept: np.ndarray) -> np.ndarray:
    """uint8 [8, 8], what a mask of 64 patches is to look like."""
    return np.where(np.isin(np.arange(64), kept), KEPT_COLOUR, PRUNED_COLOUR).reshape(8, 8)


def test_a_run_shows_question_answer_mask_tokens_and_times() -> None:
    one = made()
    page = shown(one)
    assert one.record is not None
    for text in (
        one.question,
        one.answer,
        "9 visual of 20 in the prompt; 1 in the answer",
        "2.10 s (preprocess 0.10",
        "recording 0.70 s, not",
    ):
        assert text in page.text
    np.testing.assert_array_equal(page.picture(), greys(one.record.kept_patch_ids[0]))
    assert "picture: 9 of 64 patches kept" in page.text
    assert len(one._repr_html_()) < 5000


def test_a_run_cut_inside_the_decoder_shows_what_its_last_layer_reads() -> None:
    final = np.array([3, 60])
    np.testing.assert_array_equal(shown(replace(made(), final_patch_ids=final)).picture(), greys(final))


def test_text_is_never_html() -> None:
    result = long_run()
    page = shown(result)
    assert set(page.elements) == {"div", "figure", "img", "figcaption", "table", "tr", "th", "td"}
    assert ODD in page.text
    assert html.escape(ODD) in result._repr_html_()
    assert result.record is not None
    odd = replace(result.record, geometries=(replace(GRID, view='"><b>x'),), notes=(ODD,))
    page = shown(odd)
    assert "b" not in page.elements
    assert '"><b>x: 9 of 64' in page.text


def test_a_run_without_its_record_has_no_mask() -> None:
    page = shown(made(recorded=False))
    assert page.sources == []
    assert "a red ball" in page.text


def test_a_stopped_answer_says_so() -> None:
    assert "a red ball (stopped)" in shown(replace(made(), stopped=True)).text


def test_a_record_shows_its_masks_and_facts() -> None:
    rec = replace(record(CUT, batch=2), geometries=(GRID, replace(GRID, view="base")))
    page = shown(rec)
    for row, name in enumerate(("picture", "base")):
        np.testing.assert_array_equal(page.picture(row), greys(rec.kept_patch_ids[row]))
        assert f"{name}: 9 of 64 patches kept" in page.text
    assert "9 + 9 kept, of 64 in each view" in page.text
    assert f"after layer {rec.steps[0].layer}: 64 to {rec.steps[0].kept_after}" in page.text
    assert "6 of 6, 4 heads each" in page.text


def test_of_many_views_the_first_few_are_drawn() -> None:
    rec = replace(record(CUT, batch=MOST_MASKS + 2), geometries=(GRID,) * (MOST_MASKS + 2))
    page = shown(rec)
    assert len(page.sources) == MOST_MASKS
    assert "and 2 more views" in page.text


def test_padding_is_no_patch() -> None:
    rec = made().record
    assert rec is not None
    padded = replace(rec, kept_patch_ids=np.array([[3, 4, -2]]))
    np.testing.assert_array_equal(shown(padded).picture(), greys(np.array([3, 4])))


def test_a_grid_that_is_not_known_is_not_drawn() -> None:
    rec = replace(record(CUT, batch=1), geometries=(), n_patches=63, pruned_at_layer=np.full((1, 63), -1))
    assert shown(rec).sources == []


def test_a_large_grid_is_a_small_picture() -> None:
    large = replace(GRID, grid_rows=90, grid_cols=120)
    rec = replace(record(CUT, batch=1), geometries=(large,))
    data = shown(rec).sources[0].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (240, 180)
    assert len(data) < 5000


def test_no_torch_is_needed(tmp_path: Path) -> None:
    rec = made().record
    assert rec is not None
    path = rec.save(tmp_path / "one.safetensors")
    code = (
        "import sys; sys.modules['torch'] = None; from flowcut import FlowRecord; "
        f"record = FlowRecord.load({str(path)!r}); print(len(record._repr_html_()), repr(record))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{len(rec._repr_html_())} FlowRecord(")
