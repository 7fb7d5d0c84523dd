"""Weight files, opened so that a few rows cost a few rows.

A safetensors file is mapped, and its tensors are views of the mapping: indexing them reads the touched pages only, and
the operating system shares those pages between all processes of a node. An npz file is an archive without slices, so
its arrays are decoded whole when they are first used and kept until they are released.

Formats that run code when they are read are not opened: `torch.load` is never called, and numpy's pickles are refused.
"""

import json
import math
import mmap
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from core.errors import InvalidRequest

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_HEADER_BYTES: Final = 100_000_000  # the most that the safetensors library itself accepts
PICKLES: Final = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
"""Endings of files that run code when they are read."""


class WeightFile(Protocol):
    """An open weight file."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors by name, known without reading them."""
        ...

    @property
    def held_bytes(self) -> int:
        """Most bytes that it may hold at present."""
        ...

    def tensor(self, name: str) -> Tensor:
        """A tensor in host memory, which must not be written to."""
        ...

    def release(self) -> None:
        """Gives memory back; tensors handed out stay usable."""
        ...


def open_weights(path: Path) -> WeightFile:
    """Opens a safetensors or npz file without reading its tensors.

    Raises:
        InvalidRequest: It is neither, or it is damaged.
    """
    if path.suffix in PICKLES:
        raise InvalidRequest(
            f"{path.name} is a pickle, and those are not opened.", "Save the weights as safetensors or npz."
        )
    return NpzFile(path) if path.suffix == ".npz" else SafetensorsFile(path)


class SafetensorsFile:
    """A mapped safetensors file.

    The layout is that of https://huggingface.co/docs/safetensors: the header's length in 8 bytes, the header as JSON
    with dtype, shape and offsets of each tensor, then the tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._tensors = _table(self._map)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(
                f"{path.name} is not a safetensors file, or it is damaged.", "Download or save it again."
            ) from error
        self._used = False

    @property
    def path(self) -> Path:
        """See `WeightFile`."""
        return self._path

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `WeightFile`."""
        return {name: entry.shape for name, entry in self._tensors.items()}

    @property
    def held_bytes(self) -> int:
        """See `WeightFile`. All of the file once a part was used: the kernel maps far more than the touched pages."""
        return len(self._map) if self._used else 0

    def tensor(self, name: str) -> Tensor:
        """See `WeightFile`. A view of the mapping."""
        entry, self._used = self._tensors[name], True
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(self._map, dtype=entry.dtype, count=math.prod(entry.shape), offset=entry.offset)
        return flat.view(entry.shape)

    def release(self) -> None:
        """See `WeightFile`. The pages stay in the operating system's cache while nobody else needs the memory."""
        self._used = False
        self._map.madvise(mmap.MADV_DONTNEED)


class NpzFile:
    """An archive of numpy arrays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoded: dict[str, Tensor] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
                self._shapes = {name.removesuffix(".npy"): _npy_shape(archive, name) for name in members}
        except (ValueError, zipfile.BadZipFile) as error:
            raise InvalidRequest(
                f"{path.name} is not an npz file of plain numbers.", "Download or save it again, without objects."
            ) from error

    @property
    def path(self) -> Path:
        """See `WeightFile`."""
        return self._path

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `WeightFile`."""
        return self._shapes

    @property
    def held_bytes(self) -> int:
        """See `WeightFile`."""
        return sum(tensor.nbytes for tensor in tuple(self._decoded.values()))

    def tensor(self, name: str) -> Tensor:
        """See `WeightFile`. Decodes the whole array, unless it is held."""
        found = self._decoded.get(name)
        if found is None:
            with np.load(self._path, allow_pickle=False) as arrays:
                found = self._decoded[name] = torch.from_numpy(arrays[name])
        return found

    def release(self) -> None:
        """See `WeightFile`."""
        self._decoded.clear()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor of a safetensors file: `offset` counts from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def _table(data: mmap.mmap) -> dict[str, _Entry]:
    header_bytes = int.from_bytes(data[:8], "little")
    if not 0 < header_bytes <= min(_HEADER_BYTES, len(data) - 8):
        raise ValueError("no safetensors header")
    header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
    table: dict[str, _Entry] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        found = _Entry(_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + header_bytes + begin)
        if end - begin != math.prod(found.shape) * found.dtype.itemsize or not 0 <= begin <= end:
            raise ValueError("a tensor's size contradicts its shape")
        if 8 + header_bytes + end > len(data):
            raise ValueError("the file ends too early")
        table[name] = found
    return table


def _npy_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.kind != "f":
        raise ValueError("not floating-point numbers")
    return shape
