"""Downloads by the real client from a hub on this machine: progress, stop, going on, and every way to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

import flowcut
from flowcut.errors import FlowCutError, ModelNotLoaded
from flowcut.models import cache, download, fit, loading, transfer
from flowcut.models.hub import report_to_nobody
from tests import tiny
from tests.models.hub_server import COMMIT, Hub, Repository, ask_instead

NAME = "someone/a-model"
SIZE = 400_000
SLOWLY = 0.02
"""Seconds for 4 kB: the weights take 2 s."""


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    started = Hub()
    yield started
    started.close()


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty cache, and a hub that the client of this process asks."""
    ask_instead(server, tmp_path / "cache", monkeypatch)
    yield server
    server.repositories.clear()


@pytest.fixture
def repository(hub: Hub, tmp_path: Path) -> Repository:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        (folder / name).write_text(f'{{"of": "{name}"}}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256))
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    hub.repositories[NAME] = Repository(folder)
    return hub.repositories[NAME]


class Stopped(FlowCutError):
    """What a report raises to stop."""


def fetched(report: Callable[[float | None, str], None] = report_to_nobody) -> Path:
    return download.fetch(NAME, lambda folder: None, report)


def refused(sentence: str) -> str:
    with pytest.raises(ModelNotLoaded, match=sentence) as caught:
        fetched()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stop_at(share: float) -> Callable[[float | None, str], None]:
    def report(fraction: float | None, text: str) -> None:
        if fraction is not None and fraction >= share:
            raise Stopped(text)

    return report


def transfers() -> int:
    return sum(thread.name == "transfer" for thread in threading.enumerate())


def test_all_that_is_wanted_and_nothing_else(repository: Repository) -> None:
    assert not cache.cached(NAME).complete
    folder = fetched()
    assert folder.name == COMMIT
    here = {file.name for file in folder.iterdir()}
    assert here == {"config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == (repository.folder / "model.safetensors").read_bytes()
    assert cache.cached(NAME).complete
    assert cache.cached(NAME).bytes == sum((folder / name).stat().st_size for name in here)
    assert fetched() == folder
    assert repository.asked == ["bytes=0-"]


def test_progress_says_how_far_how_fast_and_how_long(repository: Repository) -> None:
    repository.seconds_a_piece = SLOWLY
    told: list[tuple[float | None, str]] = []
    fetched(lambda fraction, text: told.append((fraction, text)))
    shares = [fraction for fraction, _ in told if fraction is not None]
    assert shares == sorted(shares)
    assert len(shares) >= 4
    assert any("of 400 kB" in text and "kB/s, about" in text and text.endswith("s left") for _, text in told)


def test_a_stopped_download_goes_on_where_it_stopped(repository: Repository) -> None:
    repository.seconds_a_piece = SLOWLY
    with pytest.raises(Stopped, match="Downloading"):
        fetched(stop_at(0.4))
    assert transfers() == 0
    part = cache.partial_bytes(NAME)
    assert 0.4 * SIZE <= part < 0.9 * SIZE
    assert not cache.cached(NAME).complete
    repository.seconds_a_piece = 0
    told: list[float] = []
    folder = fetched(lambda fraction, text: told.append(fraction or 0.0))
    assert repository.asked == ["bytes=0-", f"bytes={part}-"]
    assert (folder / "model.safetensors").read_bytes() == (repository.folder / "model.safetensors").read_bytes()
    assert cache.partial_bytes(NAME) == 0


def test_stopping_takes_no_time_though_the_server_says_nothing(repository: Repository) -> None:
    repository.seconds_a_piece = 30
    began = time.monotonic()
    with pytest.raises(Stopped):
        fetched(stop_at(0.0))
    assert time.monotonic() - began < 3
    assert transfers() == 0


def test_a_hub_that_does_not_answer_can_be_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: never.wait(60))
    asked = 0

    def report(fraction: float | None, text: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Stopped

    began = time.monotonic()
    with pytest.raises(Stopped):
        fetched(report)
    assert time.monotonic() - began < 3
    never.set()


def test_a_broken_connection_is_taken_up_again(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    repository.cut_after = 100_000
    folder = fetched()
    assert (folder / "model.safetensors").stat().st_size == SIZE
    assert len(repository.asked) >= 4


def test_a_connection_that_stays_lost(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "PATIENCE", 0.3)
    repository.cut_after = 0
    refused(r"connection to the Hugging Face hub was lost with 0 B of 400 kB of a file of .* it goes on from there")
    repository.cut_after = None
    assert cache.cached(NAME).bytes < SIZE
    fetched()


def test_a_server_that_knows_no_ranges(repository: Repository) -> None:
    repository.seconds_a_piece = SLOWLY
    with pytest.raises(Stopped):
        fetched(stop_at(0.3))
    repository.seconds_a_piece, repository.knows_ranges = 0, False
    folder = fetched()
    assert (folder / "model.safetensors").read_bytes() == (repository.folder / "model.safetensors").read_bytes()


def test_what_arrives_damaged_is_not_kept(repository: Repository) -> None:
    repository.damaged = True
    refused("did not arrive as the hub has it and was removed")
    assert cache.partial_bytes(NAME) == 0
    repository.damaged = False
    assert fetched().is_dir()


def test_no_such_model(hub: Hub) -> None:
    refused(f"There is no model '{NAME}' in this place or on the Hugging Face hub")


def test_a_repository_without_a_configuration(repository: Repository) -> None:
    (repository.folder / "config.json").unlink()
    refused("holds no config.json on the hub")


def test_a_gated_model(repository: Repository) -> None:
    repository.gated = True
    refused("is a gated model: accept its terms")


@pytest.mark.parametrize("status", [403, 404, 429])
def test_a_hub_that_refuses_the_weights(repository: Repository, status: int) -> None:
    repository.refused = status
    refused(f"The Hugging Face hub answered {status} when asked for {NAME}")


def test_no_room_on_the_disk(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "free_disk", lambda: 1000)
    refused(r"needs 400 kB more on disk, and 1\.00 kB are free in .*: free some, or set HF_HOME")
    assert repository.asked == []


def test_a_disk_that_becomes_full(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing: the file of the part is a link to it."""
    blobs = cache.model_folder(NAME) / "blobs"
    blobs.mkdir(parents=True)
    sha256 = next(one["lfs"]["oid"] for one in repository.tree() if "lfs" in one)
    (blobs / f"{sha256}{cache.INCOMPLETE}").symlink_to("/dev/full")
    monkeypatch.setattr(transfer.Transfer, "_take_in_what_is_here", lambda self: None)
    refused(r"cannot be written to .* \(No space left on device\): free some room")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    refused("could not be fetched from the Hugging Face hub: check the network")
    assert time.monotonic() - began < 5


def test_told_to_stay_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE forbids fetching it: unset it, give a local folder")


def test_what_was_fetched_before_needs_no_network(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetched() == folder
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetched() == folder


def test_part_of_a_model_is_not_enough_without_a_network(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.seconds_a_piece = SLOWLY
    with pytest.raises(Stopped):
        fetched(stop_at(0.3))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("is not on this machine, and HF_HUB_OFFLINE forbids fetching it")


def test_a_model_of_the_wrong_kind_is_refused_before_its_weights(repository: Repository) -> None:
    def check(folder: Path) -> None:
        raise ModelNotLoaded("It is of no use.")

    with pytest.raises(ModelNotLoaded, match="of no use"):
        download.fetch(NAME, check, report_to_nobody)
    assert repository.asked == []


def test_two_at_once_fetch_it_once(repository: Repository) -> None:
    repository.seconds_a_piece = SLOWLY / 4
    folders: list[Path] = []
    both = [threading.Thread(target=lambda: folders.append(fetched())) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert len(folders) == 2
    assert repository.asked == ["bytes=0-"]


def test_nobody_who_listens_gets_a_bar(repository: Repository, capfd: pytest.CaptureFixture[str]) -> None:
    repository.seconds_a_piece = SLOWLY
    fetched()
    out, err = capfd.readouterr()
    assert out == ""
    assert "Downloading" in err


def test_a_model_is_loaded_by_its_id(hub: Hub, tmp_path: Path) -> None:
    """A real checkpoint, with tiny random weights."""
    hub.repositories[NAME] = Repository(tiny.checkpoint(tmp_path / "tiny"), seconds_a_piece=0.005)
    told: list[str] = []
    model = flowcut.load(NAME, progress=lambda fraction, text: told.append(text))
    assert (model.id, model.revision) == (NAME, COMMIT)
    assert any(text.startswith("Downloading") for text in told)
    assert told[-1] == "Ready"
    assert flowcut.ask(model, tiny.picture(), "What?", flowcut.FlowCut(tokens=9), max_new_tokens=2).visual_tokens == 9
    loading.fetch_only(NAME)
    assert len(hub.repositories[NAME].asked) == 1


def test_free_disk_of_a_cache_that_is_not_there_yet(hub: Hub) -> None:
    assert not cache.cache_folder().exists()
    assert (fit.free_disk() or 0) > 0
