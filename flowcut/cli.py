"""The command line: `flowcut ask PICTURE "QUESTION"` and `flowcut app`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flowcut.criteria import METHODS
from flowcut.errors import FlowCutError
from flowcut.schedule import VARIANTS, CutConfig
from flowcut.store import write_run

if TYPE_CHECKING:
    from flowcut.media import Medium
    from flowcut.results import Run

BAD_INPUT = 2
INTERRUPTED = 130
NO_CUT = "full"


class _Parser(argparse.ArgumentParser):
    """Says one sentence on bad input, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 on bad input, 130 if interrupted."""
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
    ask.add_argument("--layer", type=int, help="the layer that cls-attention reads (default: the feature layer)")
    ask.add_argument("--seed", type=int, default=0, help="seed of the random method and of --sample (default 0)")
    ask.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default 128)")
    ask.add_argument("--sample", action="store_true", help="sample the answer instead of taking the likeliest")
    ask.add_argument("--temperature", type=float, help="of --sample")
    ask.add_argument("--system", help="a system prompt, if the model takes one")
    ask.add_argument("--frames", type=int, help="frames to take of a video (default: the model's own number)")
    ask.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    ask.add_argument("--out", type=Path, metavar="DIR", help="keep run, record, picture and mask there")
    ask.add_argument("--json", action="store_true", help="write all facts of the run to stdout, not only the answer")
    app = commands.add_parser("app", help="open the app in the browser")
    app.set_defaults(run=_app)
    app.add_argument("--port", type=int, default=8501)
    return parser


def _ask(wanted: argparse.Namespace) -> int:
    cut = _cut(wanted)  # before torch is loaded: a wrong setting is told at once
    _check_folder(wanted.out)
    from flowcut.images import open_picture
    from flowcut.videos import is_video

    early = None if is_video(wanted.image) else open_picture(wanted.image)  # before torch and the model
    _quiet_libraries()
    from flowcut.media import open_medium
    from flowcut.models import load
    from flowcut.run import ask

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
    return CutConfig(wanted.method, wanted.tokens, wanted.variant, wanted.layer, seed)


def _check_folder(folder: Path | None) -> None:
    try:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise FlowCutError(f"--out is {folder}, which is a file: give a folder, new or old.")
    except OSError as error:  # a name that no file system takes
        raise FlowCutError(f"--out cannot be used ({error.strerror}): give a folder, new or old.") from error


def _quiet_libraries() -> None:
    """stdout and stderr belong to the answer and to our own sentences."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _keep(run: Run, picture: Medium, folder: Path) -> None:
    """run.json, record.safetensors, picture.png (of a video its first frame) and masks in the folder itself.

    The mask of a picture is mask.png, of tiles also mask-base.png; those of a video are mask-frame-1.png and on.
    """
    from flowcut.images import Picture
    from flowcut.maskpicture import record_masks, video_masks

    assert run.record is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_run(run, picture.image, folder)
        if isinstance(picture, Picture):
            masks = record_masks(picture.image, run.record)
        else:
            masks = video_masks(picture.frames, run.record)
        for name, mask in masks.items():
            mask.save(folder / f"{name}.png")
    except OSError as error:
        raise FlowCutError(f"The run cannot be written to {folder} ({error.strerror}): give another --out.") from error


def _facts(run: Run) -> dict[str, Any]:
    steps = run.record.steps if run.record is not None else ()
    rows = run.record.kept_patch_ids.tolist() if run.record is not None else None
    kept = rows[0] if rows is not None and len(rows) == 1 else rows  # several rows: one list for each tile
    cuts = [{"layer": s.layer, "before": s.alive_before, "after": s.alive_after, "forced": s.forced} for s in steps]
    return {"id": run.id, "title": run.title, **run.facts(), "kept_patch_ids": kept, "steps": cuts}


def _app(wanted: argparse.Namespace) -> int:
    page = find_spec("app.main") if find_spec("app") else None
    if page is None or page.origin is None or find_spec("streamlit") is None:
        raise FlowCutError("The app is not installed here: run pip install 'flowcut-lens[app]', or make demo.")
    command = [sys.executable, "-m", "streamlit", "run", page.origin, "--server.port", str(wanted.port)]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
