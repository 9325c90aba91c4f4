"""The command line: `flowcut ask PICTURE "QUESTION"`, `flowcut compare`, `flowcut causal` and `flowcut app`."""

from __future__ import annotations

import argparse
import json
import runpy
import socket
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flowcut.criteria import METHODS
from flowcut.cut import VARIANTS, CutConfig
from flowcut.errors import FlowCutError
from flowcut.records.store import write_run
from flowcut.threads import share_processors
from flowcut_lens.cli import studies

if TYPE_CHECKING:
    from flowcut.generation.medium import Medium
    from flowcut.records.run import Run
    from flowcut.records.vision import FlowRecord

BAD_INPUT = 2
INTERRUPTED = 130
NO_CUT = "full"
LAST_PORT = 65535


class _Parser(argparse.ArgumentParser):
    """Says one sentence on bad input, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 on bad input, 130 if interrupted."""
    share_processors()
    wanted = _parser().parse_args(arguments)
    try:
        return int(wanted.run(wanted))
    except FlowCutError as error:
        print(f"flowcut: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("flowcut: interrupted.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="flowcut", description="Ask a vision-language model, and prune its visual tokens.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    ask = commands.add_parser("ask", help="ask a question about a picture or a video; the answer goes to stdout")
    ask.set_defaults(run=_ask)
    ask.add_argument("image", metavar="PICTURE", help="the path of a picture, or of a video")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--model", default="embedded", help="embedded (default), a folder, or a hub id")
    ask.add_argument("--tokens", type=int, default=64, help="visual tokens to keep (default 64)")
    ask.add_argument("--method", default="flowcut", help=f"{NO_CUT} (all tokens), {', '.join(METHODS)}")
    ask.add_argument("--variant", default="official", help=f"FlowCut's: {' or '.join(VARIANTS)}")
    takes_layer = ", ".join(name for name, method in METHODS.items() if method.takes_layer)
    ask.add_argument("--layer", type=int, help=f"the vision layer that the method looks at ({takes_layer})")
    ask.add_argument("--patches", type=_ids, metavar="3,17,...", help="the patches that --method chosen keeps")
    ask.add_argument("--seed", type=int, default=0, help="seed of the random method and of --sample (default 0)")
    ask.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default 128)")
    ask.add_argument("--sample", action="store_true", help="sample the answer instead of taking the likeliest")
    ask.add_argument("--temperature", type=float, help="of --sample")
    ask.add_argument("--system", help="a system prompt, if the model takes one")
    ask.add_argument("--frames", type=int, help="frames to take of a video (default: the model's own number)")
    ask.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    ask.add_argument("--out", type=Path, metavar="DIR", help="keep run, record, picture and mask there")
    ask.add_argument("--json", action="store_true", help="write all facts of the run to stdout, not only the answer")
    studies.add_commands(commands)
    app = commands.add_parser("app", help="serve the app and print its address, to be opened in a browser")
    app.set_defaults(run=_app)
    app.add_argument("--port", type=int, default=8501, help="where it is served (default 8501)")
    app.add_argument("--host", default="127.0.0.1", help="the address that it listens on (default: this machine only)")
    return parser


def _ask(wanted: argparse.Namespace) -> int:
    cut = _cut(wanted)  # before torch is loaded: a wrong setting is told at once
    _check_folder(wanted.out)
    from flowcut.media.picture import open_picture
    from flowcut.media.video import is_video

    early = None if is_video(wanted.image) else open_picture(wanted.image)  # before torch and the model
    from flowcut.models.quiet import quiet_libraries

    quiet_libraries()
    from flowcut.generation.ask import ask
    from flowcut.generation.medium import open_medium
    from flowcut.models.loading import load

    model = load(wanted.model, device=wanted.device)
    picture = open_medium(model, early or wanted.image, wanted.frames)
    run = ask(
        model,
        picture,
        wanted.question,
        cut,
        max_new_tokens=wanted.max_new_tokens,
        do_sample=wanted.sample,
        temperature=wanted.temperature,
        system=wanted.system,
        seed=wanted.seed if wanted.sample else None,
    )
    for note in run.notes:
        print(f"flowcut: {note}", file=sys.stderr)
    if wanted.out is not None:
        _keep(run, picture, wanted.out)
    print(json.dumps(_facts(run), ensure_ascii=False, indent=1) if wanted.json else run.answer)
    return 0


def _cut(wanted: argparse.Namespace) -> CutConfig | None:
    if wanted.method == NO_CUT:
        return None
    method = METHODS.get(wanted.method)
    seed = wanted.seed if method is not None and method.takes_seed else None
    tokens = wanted.tokens if wanted.patches is None else len(wanted.patches)
    return CutConfig(wanted.method, tokens, wanted.variant, wanted.layer, seed, patches=wanted.patches)


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 3,17") from error


def _check_folder(folder: Path | None) -> None:
    try:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise FlowCutError(f"--out is {folder}, which is a file: give a folder, new or old.")
    except OSError as error:  # a name that no file system takes
        raise FlowCutError(f"--out cannot be used ({error.strerror}): give a folder, new or old.") from error


def _keep(run: Run, picture: Medium, folder: Path) -> None:
    """run.json, record.safetensors, picture.png (of a video its first frame) and masks in the folder itself.

    The mask of a picture is mask.png, of tiles also mask-base.png; those of a video are mask-frame-1.png and on.
    """
    from flowcut.media.picture import Picture
    from flowcut.records.mask_picture import record_masks, video_masks

    assert run.record is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_run(run, picture.image, folder)
        if isinstance(picture, Picture):
            masks = record_masks(picture.image, _as_read(run.record, run))
        else:
            masks = video_masks(picture.frames, run.record)
        for name, mask in masks.items():
            mask.save(folder / f"{name}.png")
    except OSError as error:
        raise FlowCutError(f"The run cannot be written to {folder} ({error.strerror}): give another --out.") from error


def _facts(run: Run) -> dict[str, Any]:
    steps = run.record.steps if run.record is not None else ()
    rows = _as_read(run.record, run).kept_patch_ids.tolist() if run.record is not None else None
    kept = rows[0] if rows is not None and len(rows) == 1 else rows  # several rows: one list for each tile
    cuts = [{"layer": s.layer, "before": s.kept_before, "after": s.kept_after, "clamped": s.clamped} for s in steps]
    return {"id": run.id, "title": run.title, **run.facts(), "kept_patch_ids": kept, "steps": cuts}


def _as_read(record: FlowRecord, run: Run) -> FlowRecord:
    """The record of one picture with the patches that the language model read to its last layer, whatever cut them."""
    if record.batch > 1 or run.final_patch_ids is None or record.patches_per_token > 1:
        return record
    return replace(record, kept_patch_ids=run.final_patch_ids[None])


def _app(wanted: argparse.Namespace) -> int:
    page = Path(__file__).resolve().parents[1] / "app" / "main.py"  # by place: a name could be somebody else's
    if not page.is_file() or find_spec("streamlit") is None:
        raise FlowCutError("The app is not installed here: run pip install 'flowcut-lens[app]', or make demo.")
    _check_address(wanted.host, wanted.port)
    settings = {**_settings(page), "server.address": wanted.host, "server.port": str(wanted.port)}
    sys.argv = ["streamlit", "run", str(page), *(f"--{name}={value}" for name, value in settings.items())]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)  # this process: a signal to it ends the server
    return 0


def _check_address(host: str, port: int) -> None:
    """Streamlit ends in a traceback where it cannot listen."""
    if not 1 <= port <= LAST_PORT:
        raise FlowCutError(f"--port is {port}: choose 1 to {LAST_PORT}.")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        sentence = f"The app cannot listen on {host}, port {port} ({why}): choose another --host or --port."
        raise FlowCutError(sentence) from error


def _settings(page: Path) -> dict[str, str]:
    """The settings beside the page, as Streamlit's command line takes them; the theme is no setting of the server."""
    tables = tomllib.loads((page.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    return {
        f"{table}.{name}": value if isinstance(value, str) else json.dumps(value)
        for table, settings in tables.items()
        if table != "theme"
        for name, value in settings.items()
    }


if __name__ == "__main__":
    sys.exit(main())
