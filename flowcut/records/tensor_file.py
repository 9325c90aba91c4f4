"""A file of named arrays with facts beside them: written whole or not at all, checked when read. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack_tensors

from flowcut.errors import InvalidRecord


def write_file(path: Path, kind: str, version: int, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """Write a record of one kind; `facts` are what JSON can hold. Returns the path."""
    tensors = {name: np.ascontiguousarray(_narrow(array)) for name, array in arrays.items()}
    text = json.dumps({"format": kind, "version": version, **facts}, sort_keys=True)
    content = pack_tensors(tensors, metadata={"record": text, "checksum": _checksum(text, tensors)})
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(bytes(content))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def read_file(path: Path, kind: str, versions: Sequence[int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and arrays of a record that `write_file` wrote, in one of these versions.

    Raises:
        InvalidRecord: one sentence where the file is missing, is no record of this kind, is damaged or of another
            version.
    """
    if not _is_file(path):
        raise InvalidRecord(f"There is no record at {path}: give the path of a file that flowcut saved.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        text, checksum = metadata["record"], metadata["checksum"]
        facts = json.loads(text)
        found_kind, found_version = facts.pop("format"), facts.pop("version")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRecord(
            f"{path.name} is not a flowcut record, or is damaged: save or download it again."
        ) from error
    _check_kind(path, (found_kind, found_version), (kind, versions))
    if _checksum(text, tensors) != checksum:
        raise InvalidRecord(f"{path.name} is damaged (its checksum does not match): save or download it again.")
    return facts, {name: _widen(array) for name, array in tensors.items()}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def json_numbers(array: np.ndarray) -> list[Any]:
    """Numbers as JSON has them: NaN, which JSON lacks, becomes null."""
    return [None if value != value else value for value in array.tolist()]


def _check_kind(path: Path, found: tuple[Any, Any], wanted: tuple[str, Sequence[int]]) -> None:
    if found[0] != wanted[0]:
        raise InvalidRecord(f"{path.name} is not a {wanted[0]} file, or is damaged: give the one that was meant.")
    if found[1] not in wanted[1]:
        raise InvalidRecord(
            f"{path.name} is a flowcut record of version {found[1]}, this flowcut reads {_words(wanted[1])}: "
            "open it with the flowcut that wrote it, or run the question again."
        )


def _words(versions: Sequence[int]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {' and '.join(str(version) for version in versions)}"


def renamed(values: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Facts or arrays of an earlier version under the names that their fields have now.

    Args:
        names: from the old name of a field to the new one; of `layer.003.old` the last part is looked up.
    """
    parts = {name: name.rpartition(".") for name in values}
    return {f"{before}{dot}{names.get(last, last)}": values[name] for name, (before, dot, last) in parts.items()}


def _narrow(array: np.ndarray) -> np.ndarray:
    """Ids need 16 of their 64 bits on disk wherever they fit; reading widens them again."""
    if array.dtype == np.int64 and array.size and np.abs(array).max() < 2**15:
        return array.astype(np.int16)
    return array


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64) if array.dtype == np.int16 else array


def _checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
