"""The command line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import flowcut
from flowcut.records import store
from flowcut_lens.cli import app, main
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    tiny.picture().save(tmp_path / "cat.png")
    return str(tmp_path / "cat.png")


def flow(*arguments: str) -> int:
    try:
        return main.main(arguments)
    except SystemExit as stop:  # argparse leaves this way
        return int(stop.code or 0)


def test_the_answer_and_nothing_else_is_on_stdout(model: str, picture: str, capsys: pytest.CaptureFixture) -> None:
    assert flow("ask", picture, "What?", "--model", model, "--tokens", "9", "--max-new-tokens", "4") == 0
    run = flowcut.ask(flowcut.load(model), picture, "What?", flowcut.FlowCut(tokens=9), max_new_tokens=4)
    assert capsys.readouterr().out == run.answer + "\n"


def test_a_layer_that_the_language_model_does_not_read_is_told(
    model: str, picture: str, capsys: pytest.CaptureFixture
) -> None:
    options = ["--model", model, "--tokens", "9", "--method", "cls-attention", "--max-new-tokens", "2", "--layer"]
    told = []
    for layer in ("-1", "2"):
        assert flow("ask", picture, "What?", *options, layer) == 0
        told.append("behind layer" in capsys.readouterr().err)
    assert told == [True, False]


@pytest.mark.parametrize("method", ["full", "flowcut", "random", "stride", "cls-attention", "divprune", "downsample"])
def test_every_method_and_its_files(
    model: str, picture: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "run"
    options = ["--model", model, "--tokens", "9", "--method", method, "--out", str(out), "--json"]
    assert flow("ask", picture, "What?", *options, "--max-new-tokens", "3") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["visual_tokens"] == len(facts["kept_patch_ids"]) == (tiny.N_PATCHES if method == "full" else 9)
    run = store.load_run(out)
    assert (run.answer, run.id, run.title) == (facts["answer"], facts["id"], facts["title"])
    assert run.record is not None
    assert Image.open(out / "mask.png").size == Image.open(picture).size
    assert sorted(path.name for path in out.iterdir()) == ["mask.png", "picture.png", "record.safetensors", "run.json"]


@pytest.mark.parametrize(
    "options", [["--method", "fastv", "--tokens", "9"], ["--method", "chosen", "--patches", "3,0"]]
)
def test_what_is_told_is_what_the_language_model_reads_in_the_end(
    model: str, picture: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = ["--model", model, "--json", "--max-new-tokens", "2", "--out", str(tmp_path / "run")]
    assert flow("ask", picture, "What?", *options, *more) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kept_patch_ids"] == facts["final_patch_ids"]
    assert len(facts["kept_patch_ids"]) == facts["cut"]["tokens"]
    mask = Image.open(tmp_path / "run" / "mask.png").convert("L")
    assert sum(mask.resize((8, 8)).tobytes()) > 0.6 * 255 * 64  # most of the picture is faded
    run = store.load_run(tmp_path / "run")
    assert run.final_patch_ids is not None
    assert run.final_patch_ids.tolist() == facts["kept_patch_ids"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method vispruner --set important_share=0.75", {"important_share": 0.75}),
        ("--method vispruner", {"important_share": 0.5}),
        ("--method sparsevlm --set recycling=on", {"recycling": True}),
    ],
)
def test_settings_of_a_method_reach_the_run(
    model: str, picture: str, options: str, said: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    more = "--tokens 9 --max-new-tokens 2 --json"
    assert flow("ask", picture, "What?", "--model", model, *options.split(), *more.split()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cut"]["settings"] == said
    assert facts["title"] == flowcut.Cut(facts["cut"]["method"], tokens=9, **said).title
    assert facts["differs_from_release"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--method vispruner --set share=1", "has no setting 'share': it has important_share"),
        ("--method vispruner --set important_share", "write a name and a value"),
        ("--method vispruner --set important_share=lots", "must be a number from 0 to 1"),
        ("--method sparsevlm --set recycling=0.5", "must be True or False"),
        ("--method fastv --set recycling=on", "it has none of its own"),
        ("--method fastv --variant paper", "has no variants"),
    ],
)
def test_settings_that_no_method_has_are_refused_at_once(
    picture: str, options: str, sentence: str, capsys: pytest.CaptureFixture
) -> None:
    assert flow("ask", picture, "What?", *options.split()) != 0
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert "\n" not in told


def test_options_reach_the_run(model: str, picture: str, capsys: pytest.CaptureFixture) -> None:
    options = "--tokens 9 --variant paper --sample --temperature 0.7 --seed 3 --max-new-tokens 2 --system Hush. --json"
    assert flow("ask", picture, "What?", "--model", model, *options.split()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cut"]["variant"] == "paper"
    wanted = {"max_new_tokens": 2, "do_sample": True, "temperature": 0.7, "seed": 3, "system": "Hush.", "num_beams": 1}
    assert facts["generation"] == wanted


@pytest.mark.parametrize(
    "options",
    [
        ["--tokens", "0"], ["--tokens", "-3"], ["--tokens", "65"], ["--tokens", "2.5"], ["--tokens", "nan"],
        ["--tokens", "many"], ["--method", "magic"], ["--variant", "arxiv"], ["--model", "/no/such/model"],
        ["--method", "cls-attention", "--layer", "99"], ["--layer", "3"], ["--max-new-tokens", "0"],
        ["--device", "abacus"], ["--sample", "--temperature", "-1"], ["--unknown"],
        ["--method", "random", "--seed", "-1"], ["--out", __file__], ["--method", "cdpruner"],
        ["--method", "chosen"], ["--method", "chosen", "--patches", "a,b"], ["--method", "chosen", "--patches", "64"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_options_are_one_sentence_and_status_2(
    model: str, picture: str, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    chosen = options if "--model" in options else ["--model", model, *options]
    assert flow("ask", picture, "What?", "--quiet", *chosen) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("flowcut")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("question", ["", "   ", "a" * 20_000])
def test_bad_questions(model: str, picture: str, question: str, capsys: pytest.CaptureFixture) -> None:
    assert flow("ask", picture, question, "--model", model, "--tokens", "9", "--quiet") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_pictures_are_told_before_the_model_loads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.png").write_text("a text called .png")
    for path in (tmp_path / "a.png", tmp_path / "missing.png", tmp_path):
        assert flow("ask", str(path), "What?", "--model", "/never/reached") == 2
        assert str(path.name) in capsys.readouterr().err


def test_no_command_at_all(capsys: pytest.CaptureFixture) -> None:
    assert flow() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_program(model: str, picture: str) -> None:
    program = [sys.executable, "-m", "flowcut_lens.cli.main", "ask", picture, "What?"]
    command = [*program, "--model", model, "--tokens", "9", "--quiet"]
    done = subprocess.run([*command, "--max-new-tokens", "3"], capture_output=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout.endswith(b"\n")
    assert done.stderr == b""
    done = subprocess.run([*command, "--tokens", "0"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_wrong_setting_is_told_without_loading_torch() -> None:
    code = (
        "import sys; from flowcut_lens.cli.main import main; "
        "status = main(['ask', 'x.png', 'What?', '--tokens', '0']); "
        "sys.exit(9 if 'torch' in sys.modules else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 2


def test_the_app_needs_its_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert flow("app") == 2
    assert "pip install" in capsys.readouterr().err


def test_the_app_is_handed_to_streamlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every setting that lies beside the page, of which the command line outweighs whatever else is set."""
    called: list[list[str]] = []
    monkeypatch.setattr(app.sys, "argv", [])
    monkeypatch.setattr(app.runpy, "run_module", lambda name, **options: called.append([name, *app.sys.argv]))
    assert flow("app", "--port", "9000") == 0
    (told,) = called
    assert told[:3] == ["flowcut_lens.app", "streamlit", "run"]
    assert told[3].endswith("main.py")
    assert told[-1] == "--server.port=9000"
    for setting in ("browser.gatherUsageStats=false", "client.showErrorDetails=none", "client.toolbarMode=minimal",
                    "server.address=127.0.0.1", "server.headless=true", "runner.fastReruns=false"):  # fmt: skip
        assert f"--{setting}" in told


def test_where_the_app_cannot_listen(capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = {
            ("--port", "99999"): "--port is 99999: choose 1 to 65535",
            ("--port", "0"): "--port is 0: choose 1 to 65535",
            ("--port", str(taken.getsockname()[1])): "choose another --host or --port",
            ("--host", "no.such.host.invalid"): "choose another --host or --port",
            ("--host", "x" * 300): "choose another --host or --port",
            ("--host", "203.0.113.9"): "choose another --host or --port",
        }
        for options, sentence in wrong.items():
            assert flow("app", *options) == 2
            told = capsys.readouterr().err
            assert sentence in told
            assert told.count("\n") == 1
