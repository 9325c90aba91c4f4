"""Fetch a model from the Hugging Face hub so that it can be stopped at once, and goes on later where it stopped.

The hub's own client removes what it has of a file when its download ends early. So large files are fetched here, into
the hub's cache under the names of its layout, and checked against their SHA-256; the hub's client then finds them there
and adds the small ones. Whatever waits for the network does so on a thread of its own: `report` is called several times
a second, and when it raises, the download ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import WeakFileLock

from flowcut.errors import FlowCutError, ModelNotLoaded
from flowcut.models.cache import INCOMPLETE, WANTED_FILES, cache_folder, complete_snapshot, model_folder, wanted
from flowcut.models.fit import free_disk
from flowcut.models.hub import HUB_SECONDS, Progress, SilentBar, report_to_nobody, terminal_bar
from flowcut.models.rate import Rate, amount
from flowcut.models.transfer import CannotWrite, LostConnection, Transfer, WrongContent

POLL_SECONDS = 0.2
"""Between two reports, and so the longest that a download goes on after it is told to stop."""
EMBEDDED = "embedded"
Result = TypeVar("Result")


class NoConfig(ModelNotLoaded):
    """The repository on the hub has no config.json: an adapter, or no transformers checkpoint at all."""


def fetch(name: str, check: Callable[[Path], object], report: Progress) -> Path:
    """Bring a model onto this machine, as far as it is not there; what was fetched before an earlier stop is kept.

    Args:
        name: its id on the hub.
        check: called with a folder that holds its config.json before more is fetched; raises if it is of no use.
        report: called with the fraction that is here, and how fast and how long yet; may raise, which stops it all.

    Returns:
        The snapshot's folder, named by the hub's commit.

    Raises:
        NoConfig: (a ModelNotLoaded) the repository has no config.json.
        ModelNotLoaded: one sentence: no such model, no access, no network, no room, connection lost.
    """
    with ExitStack() as bars:
        told = bars.enter_context(terminal_bar()) if report is report_to_nobody else report
        try:
            return _fetch(name, check, told)
        except FlowCutError:
            raise
        except Exception as error:  # the hub's client raises its transport's own kinds, which change with its versions
            raise ModelNotLoaded(_sentence(name, error)) from error


def _fetch(name: str, check: Callable[[Path], object], report: Progress) -> Path:
    here = complete_snapshot(name)
    try:
        info = _while_reporting(
            lambda: HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS), report,
            f"Looking for {name} on the Hugging Face hub",
        )  # fmt: skip
    except (RepositoryNotFoundError, HFValidationError, FlowCutError):
        raise  # it answered: no such model, no access
    except Exception:  # no network, a hub in trouble, or told to stay offline: what was fetched before may still do
        if here is None:
            raise
        return here
    check(_config(name, report).parent)
    _fetch_large(name, str(info.sha), info.siblings or [], report)
    return Path(
        _while_reporting(
            lambda: snapshot_download(name, allow_patterns=list(WANTED_FILES), tqdm_class=SilentBar), report,
            "Fetching the small files",
        )
    )  # fmt: skip


def _config(name: str, report: Progress) -> Path:
    looking = f"Reading what {name} is"
    try:
        found = _while_reporting(lambda: hf_hub_download(name, "config.json", tqdm_class=SilentBar), report, looking)
    except LocalEntryNotFoundError:  # the network is gone since
        raise
    except EntryNotFoundError as error:
        raise NoConfig(f"{name} holds no config.json on the hub: give the id of a transformers checkpoint.") from error
    return Path(found)


def _fetch_large(name: str, commit: str, files: list[Any], report: Progress) -> None:
    """All files that the hub stores by their SHA-256, one after another: the weights, sometimes a tokenizer."""
    blobs = model_folder(name) / "blobs"
    missing = [
        file for file in files
        if wanted(file.rfilename) and file.lfs is not None and not (blobs / file.lfs.sha256).exists()
        and file.lfs.size <= constants.MAX_HTTP_DOWNLOAD_SIZE  # larger ones only the hub's client can fetch
    ]  # fmt: skip
    if not missing:
        return
    blobs.mkdir(parents=True, exist_ok=True)
    parts = [blobs / f"{file.lfs.sha256}{INCOMPLETE}" for file in missing]
    total = sum(file.lfs.size for file in missing)
    begun = sum(part.stat().st_size for part in parts if part.exists())
    _check_room(name, total - begun)
    rate, finished = Rate(begun), 0
    for file, part in zip(missing, parts, strict=True):
        url = hf_hub_url(name, file.rfilename, revision=commit)
        transfer = Transfer(url, part, file.lfs.size, file.lfs.sha256)
        before, after = finished, sum(one.stat().st_size for one in parts if one != part and one.exists())

        def tell(done: int, before: int = before, after: int = after) -> None:
            here = before + done + after
            report(min(here / total, 1.0), rate.words(here, total))

        with _alone(name, file.lfs.sha256, report):
            if not (blobs / file.lfs.sha256).exists():  # another program may have fetched it meanwhile
                _transfer(name, transfer, tell)
                part.replace(blobs / file.lfs.sha256)
        finished += file.lfs.size


def _transfer(name: str, transfer: Transfer, tell: Callable[[int], None]) -> None:
    """Run one transfer to its end; when `tell` raises, it is given up."""
    transfer.start()
    try:
        while not transfer.ended.wait(POLL_SECONDS):
            tell(transfer.done)
    finally:
        transfer.stop()
    if transfer.error is not None:
        raise transfer.error


class _alone:
    """Inside the `with`, no other program that uses the hub's cache fetches the same file."""

    def __init__(self, name: str, sha256: str, report: Progress) -> None:
        self._lock = cache_folder() / ".locks" / model_folder(name).name / f"{sha256}.lock"
        self._report, self._held = report, ExitStack()

    def __enter__(self) -> None:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                self._held.enter_context(WeakFileLock(self._lock, timeout=POLL_SECONDS))
                return
            except TimeoutError:
                self._report(None, "Another program is fetching the same file: waiting for it")

    def __exit__(self, *_: object) -> None:
        self._held.close()


def _check_room(name: str, needed: int) -> None:
    """Refuse what would fill the disk before anything is fetched."""
    free = free_disk()
    if free is not None and needed > free:
        raise ModelNotLoaded(_no_room(name, needed, free))


def _no_room(name: str, needed: int, free: int) -> str:
    return (
        f"{name} needs {amount(needed)} more on disk, and {amount(free)} are free in {cache_folder()}: free some, or "
        "set HF_HOME to a folder with room."
    )


def _while_reporting(work: Callable[[], Result], report: Progress, text: str) -> Result:
    """What `work` returns or raises; it runs on a thread of its own, which is left alone when `report` raises."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    report(None, text)
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if thread.is_alive():
            report(None, text)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]  # the list holds results and errors of any kind


def _sentence(name: str, error: Exception) -> str:
    """What went wrong, in one sentence that says what to do."""
    if isinstance(error, GatedRepoError):
        return f"{name} is a gated model: accept its terms on huggingface.co, then log in with 'hf auth login'."
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return (
            f"There is no model {name!r} in this place or on the Hugging Face hub: check its name, give a folder, or "
            f"use '{EMBEDDED}'."
        )
    if isinstance(error, CannotWrite) or (isinstance(error, OSError) and error.errno is not None):
        return (
            f"{name} cannot be written to {cache_folder()} ({error}): free some room there or set HF_HOME to another "
            "folder, and ask again, since it goes on from there."
        )
    if isinstance(error, LostConnection):
        return (
            f"The connection to the Hugging Face hub was lost with {amount(error.done)} of {amount(error.total)} of a "
            f"file of {name} here: ask again, and it goes on from there."
        )
    if isinstance(error, WrongContent):
        return f"A file of {name} did not arrive as the hub has it and was removed: ask again to fetch it anew."
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "?")
        return f"The Hugging Face hub answered {status} when asked for {name}: try again later, or use '{EMBEDDED}'."
    if constants.HF_HUB_OFFLINE:
        return (
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids fetching it: unset it, give a local folder, or "
            f"use '{EMBEDDED}'."
        )
    return (
        f"{name} is not on this machine and could not be fetched from the Hugging Face hub: check the network, give a "
        f"local folder, or use '{EMBEDDED}'."
    )
