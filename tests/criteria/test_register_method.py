"""A method of one's own: the example of docs/add-a-method.md, everywhere that methods are, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowcut
from flowcut.criteria import METHODS, Evidence, forget_method
from flowcut.criteria.registry import OUR_OWN
from flowcut.models.loading import VisionLanguageModel
from flowcut_lens.cli import main
from tests import tiny

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-method.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
QUESTION = "What is in the picture?"


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    yield
    for name in set(METHODS) - OUR_OWN:
        forget_method(name)
    assert set(METHODS) == OUR_OWN


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def low_norm() -> flowcut.Method:
    exec(BLOCKS[0], {})
    return METHODS["low-norm"]


def registered(name: str = "mine", **settings: Any) -> None:
    method = {"label": "Mine", "source": "mine: a test", "rank": lambda evidence, cut: np.zeros((1, 1)), **settings}
    flowcut.register_method(name, flowcut.Method(**method))


def test_low_norm_by_hand(low_norm: flowcut.Method) -> None:
    evidence = Evidence(1, 3, features=np.array([[[3.0, 4], [0, 1], [-2, 0]]]))
    assert low_norm.ranking(evidence, flowcut.Cut("low-norm", tokens=2)).tolist() == [[-5, -1, -2]]
    assert low_norm.select(evidence, flowcut.Cut("low-norm", tokens=2)).tolist() == [[1, 2]]


def test_the_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.picture(size=(96, 80)).save("photo.png")
    notebook: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, notebook)
    assert notebook["run"].record.differs_from_release == METHODS["low-norm"].differs
    assert len(notebook["run"].final_patch_ids) == 64
    assert notebook["run"].answer
    printed = capsys.readouterr().out
    assert "Low norm 64" in printed
    assert "FlowCut 64 (official)" in printed


def test_it_is_among_the_methods_and_gone_when_forgotten(low_norm: flowcut.Method) -> None:
    assert flowcut.methods()["low-norm"] == low_norm.source
    flowcut.register_method(
        "low-norm", flowcut.Method("Low norm again", "mine", rank=low_norm.rank, needs=("features",))
    )
    assert METHODS["low-norm"].label == "Low norm again"
    forget_method("low-norm")
    assert "low-norm" not in flowcut.methods()
    with pytest.raises(flowcut.InvalidCut, match="register_method"):
        flowcut.Cut("low-norm")
    with pytest.raises(flowcut.InvalidCut, match="only what was registered"):
        forget_method("flowcut")


def test_the_studies_know_it(low_norm: flowcut.Method, model: VisionLanguageModel) -> None:
    picture, cut = tiny.picture(), flowcut.Cut("low-norm", tokens=9)
    full = flowcut.ask(model, picture, QUESTION, max_new_tokens=3)
    (result,) = flowcut.compare_methods(model, picture, QUESTION, full, [cut])
    assert result.run is not None
    (ranked,) = flowcut.rank_patches(model, picture, QUESTION, [cut])
    assert ranked.ranking is not None
    assert np.sort(np.argsort(-ranked.ranking)[:9]).tolist() == result.run.final_patch_ids.tolist()
    assert "low-norm" not in flowcut.refusals(model)


@pytest.mark.parametrize("stage", ["encoder", "projector", "decoder"])
def test_what_it_differs_in_is_said_at_every_stage(stage: str, model: VisionLanguageModel) -> None:
    differs = ("It is a test.", "It takes the last ones.")
    if stage == "decoder":
        plan = flowcut.DecoderPlan(lambda n: (0,), lambda evidence, cut: np.arange(evidence.n_visual))
        registered(stage=stage, rank=None, decoder=plan, differs=differs)
    else:
        registered(stage=stage, rank=lambda evidence, cut: np.arange(evidence.n_patches)[None], differs=differs)
    runs = [flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut("mine", t), max_new_tokens=2) for t in (9, 64)]
    cut, whole = [run.language_record if stage == "decoder" else run.record for run in runs]
    assert cut is not None
    assert cut.differs_from_release == differs
    assert whole is not None
    assert whole.differs_from_release == ()  # nothing was cut
    assert runs[0].final_patch_ids is not None
    assert runs[0].final_patch_ids.tolist() == list(range(tiny.N_PATCHES - 9, tiny.N_PATCHES))


@pytest.mark.parametrize("stage", ["encoder", "projector", "decoder"])
@pytest.mark.parametrize(
    ("ranking", "sentence"),
    [
        (np.zeros((3, 3, 3)), r"Mine ranked with float64 of shape \[3, 3, 3\]: its function must give float64 of sha"),
        ([float("nan")], "Mine ranked with values that are not numbers: check its function"),
        (["a"], "Mine ranked with <U1 of shape"),
    ],
)
def test_a_ranking_that_is_none(stage: str, ranking: Any, sentence: str, model: VisionLanguageModel) -> None:
    def rank(evidence: Any, cut: Any) -> np.ndarray:
        shape = (evidence.n_visual,) if stage == "decoder" else (evidence.batch, evidence.n_patches)
        return np.broadcast_to(ranking, shape) if len(ranking) == 1 else ranking

    plan = flowcut.DecoderPlan(lambda n: (0,), rank) if stage == "decoder" else None
    registered(stage=stage, rank=None if plan else rank, decoder=plan)
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut("mine", 9), max_new_tokens=2)
    assert "\n" not in str(caught.value)
    assert len(re.findall(r"\.(\s|$)", str(caught.value))) == 1


@pytest.mark.parametrize("layers", [(), (1,), (0, 0), (-1,)])
def test_layers_that_are_not_between_two(layers: tuple[int, ...], model: VisionLanguageModel) -> None:
    def rank(evidence: flowcut.DecoderEvidence, cut: Any) -> np.ndarray:
        return np.zeros(evidence.n_visual)

    registered(stage="decoder", rank=None, decoder=flowcut.DecoderPlan(lambda n: layers, rank))
    with pytest.raises(flowcut.InvalidCut, match=r"layers\(2\) gave .* from 0 to 0"):
        flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut("mine", 9), max_new_tokens=2)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("flowcut", {}, "is a method of flowcut already"),
        ("My method", {}, "lower-case words joined by hyphens"),
        ("mine", {"label": ""}, "label is ''"),
        ("mine", {"source": "two\nlines"}, "source is 'two"),
        ("mine", {"rank": None}, "one of another stage rank="),
        ("mine", {"rank": 3}, "one of another stage rank="),
        ("mine", {"stage": "picture"}, "choose encoder, projector or decoder"),
        ("mine", {"stage": "decoder"}, "has decoder=DecoderPlan"),
        ("mine", {"needs": "cls_attention"}, r"needs is 'cls_attention': give a tuple"),
        ("mine", {"needs": ("attention",)}, "needs holds 'attention': the encoder stage gathers cls_attention"),
        ("mine", {"differs": "Nothing."}, "differs is 'Nothing.': give a tuple of sentences"),
        ("mine", {"of_videos": True}, "has the stage projector, and may need features, grid_cols, n_frames"),
        ("mine", {"kind": "best"}, "The kind is 'best': choose one of"),
    ],
)
def test_bad_registrations(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        registered(name, **settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(flowcut.InvalidCut, match="give a flowcut\\.Method"):
        flowcut.register_method("mine", lambda evidence, cut: 0)  # type: ignore[arg-type]
    assert set(METHODS) == OUR_OWN


def test_the_command_line_runs_the_file_that_registers_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, picture, plugin = str(tiny.checkpoint(tmp_path / "model")), tmp_path / "cat.png", tmp_path / "low_norm.py"
    tiny.picture().save(picture)
    plugin.write_text(BLOCKS[0])
    options = ["--model", model, "--tokens", "9", "--max-new-tokens", "3", "--json", "--plugin", str(plugin)]
    assert main.main(["ask", str(picture), "What?", "--method", "low-norm", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cut"]["method"] == "low-norm"
    assert facts["differs_from_release"] == list(METHODS["low-norm"].differs)
    assert main.main(["compare", str(picture), "What?", *options]) == 0
    (row,) = [one for one in json.loads(capsys.readouterr().out)["methods"] if one["method"] == "low-norm"]
    assert row["source"] == METHODS["low-norm"].source
    assert row["differs"] == facts["differs_from_release"]
    assert main.main(["methods", "--plugin", str(plugin)]) == 0
    told = capsys.readouterr().out
    assert METHODS["low-norm"].source in told
    assert f"Low norm: {facts['differs_from_release'][0]}" in told
    assert all(f"{METHODS['dart'].label}: {sentence}" in told for sentence in METHODS["dart"].differs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("x = 1", "registers no method"),
        ("\n1 / 0", "stopped at line 2 (ZeroDivisionError: division by zero)"),
        ("\n\ndef", "stopped at line 3 (SyntaxError: "),
        ("import json\njson.loads('{')", "stopped at line 2 (JSONDecodeError: "),
        ("import flowcut\nflowcut.register_method('flowcut', 3)", "'flowcut' is a method of flowcut already"),
    ],
)
def test_a_file_that_cannot_be_used(text: str | None, sentence: str, tmp_path: Path, capsys: Any) -> None:
    plugin = tmp_path / "mine.py"
    if text is not None:
        plugin.write_text(text)
    assert main.main(["methods", "--plugin", str(plugin)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert sentence in told.err
    assert told.err.count("\n") == 1
