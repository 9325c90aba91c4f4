"""The models in memory: the embedded one and one more; what is replaced is freed, first where there is no room."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowcut
from flowcut.errors import NoRoom
from flowcut.models import loading
from flowcut_lens.app.jobs import models as held
from flowcut_lens.app.jobs.models import Models
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(tiny.checkpoint(tmp_path_factory.mktemp(name))) for name in ("first", "second")]


def quietly(fraction: float | None, text: str) -> None:
    """Nobody is told."""


def loaded(models: Models, name: str) -> weakref.ref[Any]:
    """Load and use a model, and hold on to nothing of it."""
    model = models.load(name, quietly)
    flowcut.ask(model, tiny.picture(), "What?", flowcut.FlowCut(tokens=9), max_new_tokens=2)
    return weakref.ref(model.model)


def room_for(monkeypatch: pytest.MonkeyPatch, there_is: Callable[[], bool]) -> None:
    """Memory that has room for a model or not, as it is when its size is compared with it."""
    monkeypatch.setattr(loading.memory, "free", lambda: 10**12 if there_is() else 10)


def test_where_there_is_no_room_for_both_it_goes_first(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models()
    first = loaded(models, folders[0])
    room_for(monkeypatch, lambda: first() is None)
    second = loaded(models, folders[1])
    assert first() is None
    assert second() is not None


def test_a_model_that_has_no_room_alone_is_refused(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models()
    room_for(monkeypatch, lambda: False)
    with pytest.raises(NoRoom, match="free memory first"):
        models.load(folders[0], quietly)


def test_a_model_that_cannot_be_loaded_replaces_nothing(folders: list[str]) -> None:
    models = Models()
    models.load(folders[0], quietly)
    with pytest.raises(flowcut.ModelNotLoaded, match="There is no model folder"):
        models.load("/no/such/folder", quietly)
    assert models.get(folders[0]) is not None


def test_the_embedded_model_stays(folders: list[str], tmp_path: Path) -> None:
    models = Models()
    models.load(held.EMBEDDED, quietly)
    for folder in folders:
        models.load(folder, quietly)
    assert models.get(held.EMBEDDED) is not None
    assert all(models.get(folder) is not None for folder in folders), "while there is room"
