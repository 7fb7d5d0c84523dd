"""Tensors on disk that are whole or not there: written beside their place, synced, summed, moved in one step.

A file that a crash cut short keeps its temporary name and is nobody's; a file in its place is whole. Whether it also
belongs to the cache is for the manifest to say.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.autointerp.caching.records import Records
from core.errors import RayscopeError

_PARTIAL: Final = ".partial"
_CHUNK_BYTES: Final = 2**20
_ENTRIES: Final[dict[str, Any]] = {"windows": np.uint16, "positions": np.uint16, "activations": np.float32}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file and what it must be.

    Attributes:
        path: Path within the cache's folder.
        sha256: Sum of its bytes, hexadecimal.
        size_bytes: How many bytes.
        tensors: Tensor name to its type and shape.
    """

    path: str
    sha256: str
    size_bytes: int
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


def write_tensors(folder: Path, path: str, tensors: Mapping[str, Any]) -> StoredFile:
    """Writes numpy arrays to `folder / path`; equal arrays give equal bytes."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = save(arrays)
    write_bytes(folder / path, content)
    described = {name: (str(array.dtype), tuple(array.shape)) for name, array in arrays.items()}
    return StoredFile(path, hashlib.sha256(content).hexdigest(), len(content), described)


def write_bytes(place: Path, content: bytes) -> None:
    """Puts a file in its place in one step; it survives a crash of the machine once this returns."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
        sync_folder(place.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what crashed writers left. Nobody may be writing."""
    for partial in folder.rglob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def is_present(folder: Path, file: StoredFile) -> bool:
    """Whether a file is there with its size, without reading it."""
    try:
        return (folder / file.path).stat().st_size == file.size_bytes
    except OSError:
        return False


def check_sum(folder: Path, file: StoredFile) -> bool:
    """Whether a file holds the bytes that were written."""
    summed = hashlib.sha256()
    try:
        with (folder / file.path).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                summed.update(chunk)
    except OSError:
        return False
    return summed.hexdigest() == file.sha256


def write_records(folder: Path, path: str, records: Records) -> StoredFile:
    """Writes the records of one source over one part."""
    entries = {name: getattr(records, name) for name in _ENTRIES}
    return write_tensors(folder, path, {"offsets": records.offsets, **entries})


def read_records(folder: Path, path: str, start: int = 0, end: int | None = None) -> Records:
    """Reads the records of latents `start` to `end - 1`, and of the file no more than those.

    Raises:
        RayscopeError: The file is missing or damaged.
    """
    with _opened(folder, path) as file:
        offsets = file.get_slice("offsets")[start : None if end is None else end + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        entries: dict[str, Any] = {
            # safetensors refuses the empty slice at a tensor's end
            name: file.get_slice(name)[first:last] if first < last else np.empty(0, dtype)
            for name, dtype in _ENTRIES.items()
        }
        return Records(start, offsets - first, **entries)


def read_tensors(folder: Path, path: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Reads tensors of a file as numpy arrays, all or those named.

    Raises:
        RayscopeError: The file is missing or damaged.
    """
    with _opened(folder, path) as file:
        return {name: file.get_tensor(name) for name in names or file.keys()}


def _opened(folder: Path, path: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(folder / path, "numpy")
    except (OSError, SafetensorError) as error:
        raise RayscopeError(
            f"The cached file '{path}' can not be read ({type(error).__name__}).",
            "Run the caching job again on the same folder, with its sums checked: it makes once more what is damaged.",
        ) from error
