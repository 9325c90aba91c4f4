"""`flowcut ask`: one question, its answer on stdout."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowcut.criteria import METHODS, known_method
from flowcut.criteria.setting import SettingValue, read_settings
from flowcut.cut import VARIANTS, CutConfig, cut_from_text
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.records.store import write_run
from flowcut.settings import Generation
from flowcut_lens.cli.output import check_out, say, say_json
from flowcut_lens.cli.progress import Progress
from flowcut_lens.cli.warning import warn_of_photograph

if TYPE_CHECKING:
    from flowcut.generation.medium import Medium
    from flowcut.records.run import Run
    from flowcut.records.vision import FlowRecord

NO_CUT = "full"


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    ask = commands.add_parser("ask", help="ask a question about a picture or a video; the answer goes to stdout")
    ask.set_defaults(run=_ask)
    ask.add_argument("image", metavar="PICTURE", help="the path or http(s) address of a picture, or of a video")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--model", default="embedded", help="embedded (default), a folder, or a hub id")
    ask.add_argument("--tokens", type=int, default=64, help="visual tokens to keep (default 64)")
    ask.add_argument("--method", default="flowcut", help=f"{NO_CUT} (all tokens), {', '.join(METHODS)}")
    ask.add_argument(
        "--then", metavar="METHOD:TOKENS", help="cut once more in the language model, for example fastv:32"
    )
    has_variants = ", ".join(name for name, method in METHODS.items() if method.has_variants)
    ask.add_argument("--variant", default="official", help=f"{' or '.join(VARIANTS)} ({has_variants})")
    ask.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"a setting of the method's own: {_own_settings()}",
    )
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
    ask.add_argument("--quantize", choices=("8bit", "4bit"), help="the language model's weights in so few bits")
    ask.add_argument("--out", type=Path, metavar="DIR", help="keep run, record, picture and mask there")
    ask.add_argument("--json", action="store_true", help="write all facts of the run to stdout, not only the answer")
    ask.add_argument("--quiet", action="store_true", help="show no progress on stderr")


def _ask(wanted: argparse.Namespace) -> int:
    cut, settings = _cut(wanted), _generation(wanted)  # before torch is loaded: a wrong setting is refused at once
    check_out(wanted.out)
    from flowcut.media.picture import open_picture
    from flowcut.media.source import plain
    from flowcut.media.video import is_video

    with Progress(wanted.quiet) as progress:
        progress.report(None, "Opening the picture")
        source = plain(wanted.image, "picture")  # an address is fetched once, and before torch and the model
        if not is_video(source):
            source = open_picture(source)
            warn_of_photograph(wanted, source)
        run, picture = _answer(wanted, source, cut, settings, progress)
    for note in run.notes:
        print(f"flowcut: {note}", file=sys.stderr)
    try:
        if wanted.out is not None:
            _keep(run, picture, wanted.out)
    finally:  # where nothing can be kept, the answer is not lost too
        if wanted.json:
            say_json(_facts(run))
        else:
            say(run.answer)
    return 0


def _answer(
    wanted: argparse.Namespace, source: Any, cut: CutConfig | None, settings: Generation, progress: Progress
) -> tuple[Run, Medium]:
    """The answer, and the picture or video as it was opened."""
    progress.report(None, "Loading PyTorch")
    from flowcut.models.quiet import quiet_libraries

    quiet_libraries()
    from flowcut.generation.ask import ask
    from flowcut.generation.medium import open_medium
    from flowcut.models.loading import load

    model = load(wanted.model, device=wanted.device, progress=progress.report, quantize=wanted.quantize)
    picture = open_medium(model, source, wanted.frames)
    run = ask(model, picture, wanted.question, cut, settings=settings, on_progress=progress.report_stage)
    return run, picture


def _generation(wanted: argparse.Namespace) -> Generation:
    sampling = {"temperature": wanted.temperature, "seed": wanted.seed if wanted.sample else None}
    return Generation(wanted.max_new_tokens, wanted.sample, system=wanted.system, **sampling)


def _cut(wanted: argparse.Namespace) -> CutConfig | None:
    then = None if wanted.then is None else cut_from_text(wanted.then)
    if wanted.method == NO_CUT:
        if then is not None:
            raise FlowCutError(
                f"--then follows a first cut, and --method is {NO_CUT}: give --method {then.method} alone."
            )
        return None
    method = METHODS.get(wanted.method)
    seed = wanted.seed if method is not None and method.takes_seed else None
    tokens = wanted.tokens if wanted.patches is None else len(wanted.patches)
    common = {"patches": wanted.patches, "settings": _settings(wanted.method, wanted.set), "then": then}
    return CutConfig(wanted.method, tokens, wanted.variant, wanted.layer, seed, **common)


def _own_settings() -> str:
    declared = [(name, one) for name, method in METHODS.items() for one in method.settings]
    return "; ".join(f"{one.name}, usually {one.written(one.usual)} ({name}: {one.meaning})" for name, one in declared)


def _settings(method: str, given: list[str]) -> dict[str, SettingValue]:
    """What `--set` says, by name."""
    pairs = [text.split("=", 1) for text in given]
    for text, pair in zip(given, pairs, strict=True):
        if len(pair) < 2:
            raise InvalidCut(f"--set is {text!r}: write a name and a value, such as important_share=0.75.")
    return read_settings(method, known_method(method).settings, dict(pairs))


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 3,17") from error


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
    differs = () if run.cut is None else run.cut.differs
    facts = {"id": run.id, "title": run.title, **run.facts(), "kept_patch_ids": kept, "steps": cuts}
    return {**facts, "differs_from_release": differs}


def _as_read(record: FlowRecord, run: Run) -> FlowRecord:
    """The record of one picture with the patches that the language model read to its last layer, whatever cut them."""
    if record.batch > 1 or run.final_patch_ids is None or record.patches_per_token > 1:
        return record
    return replace(record, kept_patch_ids=run.final_patch_ids[None])
