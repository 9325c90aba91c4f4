"""Runs on disk: one folder each, named by the run's content, readable with no model, no torch and no GPU.

In FOLDER/<run id>/:
- run.json, the answer and all its numbers;
- record.safetensors, what the vision encoder showed (where it was recorded);
- language.safetensors, what the cut inside the language model did (where there was one);
- attention.safetensors, where each answer token looked (where it was asked for);
- picture.png, the original picture (where it was given).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowcut.errors import InvalidRecord
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.language import LanguageRecord
from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "flowcut-run"
FORMAT_VERSION = 1
RUN_FILE = "run.json"
RECORD_FILE = "record.safetensors"
LANGUAGE_FILE = "language.safetensors"
ATTENTION_FILE = "attention.safetensors"
PICTURE_FILE = "picture.png"


@dataclass(frozen=True)
class StoredRun:
    """A line of the list of runs: enough to choose one, without opening its record."""

    id: str
    path: Path
    question: str
    answer: str
    title: str
    model_id: str
    created: str
    """UTC time, ISO 8601."""


def save_run(run: Run, image: Image | None, folder: str | os.PathLike[str]) -> Path:
    """Keep a run under `folder`, whole or not at all; a run of the same content is replaced. Returns its folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        scratch.chmod(0o755)  # mkdtemp gives a private folder; a kept run is readable as any other file
        write_run(run, image, scratch)
        return _put_in_place(scratch, folder / run.id)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run's folder.

    Raises:
        InvalidRecord: one sentence where the folder holds no run, a damaged one, or one of another version.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    recorded, files = _pop_files(facts, folder)
    record = FlowRecord.load(folder / RECORD_FILE) if recorded else None
    language = LanguageRecord.load(folder / LANGUAGE_FILE) if LANGUAGE_FILE in files else None
    attention = AnswerAttention.load(folder / ATTENTION_FILE) if ATTENTION_FILE in files else None
    try:
        return Run.from_facts(facts, record, language, attention)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRecord(f"{folder / RUN_FILE} is damaged: delete the run, or save it again.") from error


def picture_path(folder: str | os.PathLike[str]) -> Path | None:
    """Where a stored run's picture lies, or None if it was kept without one."""
    path = Path(folder) / PICTURE_FILE
    return path if path.is_file() else None


def list_runs(folder: str | os.PathLike[str]) -> list[StoredRun]:
    """Every readable run under `folder`, newest first; folders that hold no readable run are passed over."""
    found = []
    for path in Path(folder).glob(f"*/{RUN_FILE}"):
        if path.parent.name.startswith("."):
            continue  # a run that is being saved, or was interrupted while being saved
        try:
            found.append(_summary(path.parent))
        except InvalidRecord:
            continue  # load_run says why; a list must not fail for one bad folder
    return sorted(found, key=lambda stored: (stored.created, stored.id), reverse=True)


def delete(folder: str | os.PathLike[str]) -> None:
    """Remove one stored run.

    Raises:
        InvalidRecord: the folder is not a stored run; nothing is removed then.
    """
    folder = Path(folder)
    if not (folder / RUN_FILE).is_file():
        raise InvalidRecord(f"{folder} holds no stored run: nothing was deleted.")
    shutil.rmtree(folder)


def write_run(run: Run, image: Image | None, folder: Path) -> None:
    """Write a run's files into a folder that is there; run.json last, since it marks a run as whole."""
    more = {LANGUAGE_FILE: run.language_record, ATTENTION_FILE: run.answer_attention}
    files = [name for name, part in more.items() if part is not None]
    facts = {"format": FORMAT, "version": FORMAT_VERSION, "recorded": run.record is not None, "files": files}
    facts.update(run.facts())
    if run.record is not None:
        run.record.save(folder / RECORD_FILE)
    for name, part in more.items():
        if part is not None:
            part.save(folder / name)
    if image is not None:
        image.save(folder / PICTURE_FILE)
    (folder / RUN_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _put_in_place(scratch: Path, target: Path) -> Path:
    """A folder cannot replace a full one in one step: the old run steps aside first and goes when the new one is in."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=target.parent))
        os.replace(target, old / target.name)
        os.replace(scratch, target)
        shutil.rmtree(old)
    else:
        os.replace(scratch, target)
    return target


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        recognised, version = facts.pop("format") == FORMAT, facts.pop("version")
    except FileNotFoundError as error:
        raise InvalidRecord(f"{folder} holds no run: give a folder that flowcut saved, with a {RUN_FILE}.") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidRecord(f"{path} is not a flowcut run, or is damaged: save it again.") from error
    if not recognised or version != FORMAT_VERSION:
        raise InvalidRecord(f"{path} is of version {version}, this flowcut reads version {FORMAT_VERSION}.")
    return dict(facts)


def _pop_files(facts: dict[str, Any], folder: Path) -> tuple[bool, list[str]]:
    """Whether a run has a record, and the other files that it names; runs kept by earlier versions name none."""
    recorded, files = facts.pop("recorded", False), facts.pop("files", [])
    if not isinstance(files, list):
        raise InvalidRecord(f"{folder / RUN_FILE} is damaged: delete the run, or save it again.")
    return bool(recorded), files


def _summary(folder: Path) -> StoredRun:
    facts = _read_facts(folder)
    _pop_files(facts, folder)
    try:
        run = Run.from_facts(facts, record=None)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRecord(f"{folder / RUN_FILE} is damaged.") from error
    return StoredRun(folder.name, folder, run.question, run.answer, run.title, run.model_id, run.created)
