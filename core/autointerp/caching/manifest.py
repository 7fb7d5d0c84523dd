"""What a cache holds: one JSON line for everything that is whole, appended after its files are in their places.

    {"job": {...}}                                            first line: what was asked for
    {"unit": "part/0", "counts": {...}, "files": [{"path": ..., "sha256": ..., "tensors": ...}]}

A unit without a line does not exist, whatever files lie about; a line that a crash cut short is no line. So a job that
stops anywhere goes on with what is missing, and everything a reader finds here can be checked by its sum. While a job
runs lines are only added. Before and after, the file is replaced in one step if need be: lines of units that are lost
go, and those of a finished job are put in one order, so that the same job gives the same manifest whoever did it. There
is one writer, the job's driver.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from core.autointerp.caching.parts import StoredFile, check_sum, is_present, sweep, sync_folder, write_bytes
from core.errors import InvalidRequest, RayscopeError

FILE_NAME = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Unit:
    """Something whole.

    Attributes:
        name: `part/<number>` or `reservoir/<source>/<first latent>`.
        files: Its files.
        counts: What is in it, by name.
    """

    name: str
    files: tuple[StoredFile, ...]
    counts: Mapping[str, int]


class Manifest:
    """The manifest of the cache in a folder."""

    def __init__(self, folder: Path, job: Mapping[str, Any], units: Mapping[str, Unit]) -> None:
        self.folder = folder
        self.job = job
        self._units = dict(units)

    @classmethod
    def open(cls, folder: Path, job: Mapping[str, Any]) -> Self:
        """Begins a cache, or goes on with one that was begun for the same job. For its one writer.

        Units whose files are gone, or not of their size, are forgotten and will be made again.

        Raises:
            InvalidRequest: The folder holds the cache of another job.
            RayscopeError: The manifest is damaged.
        """
        path = folder / FILE_NAME
        described = json.loads(json.dumps(job))
        if not path.exists() or not _whole_lines(path):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            manifest = cls(folder, described, {})
            manifest._append({"job": described})
            sync_folder(folder)
            return manifest
        manifest = cls.read(folder)
        if manifest.job != described:
            changed = sorted(
                key for key in described.keys() | manifest.job.keys() if described.get(key) != manifest.job.get(key)
            )
            raise InvalidRequest(
                f"The folder holds the cache of another job; they differ in {', '.join(changed)}.",
                "Choose another folder, or the settings that it was begun with.",
            )
        sweep(folder)
        manifest.settle(
            [name for name, unit in manifest._units.items() if all(is_present(folder, file) for file in unit.files)]
        )
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest as it is, for readers.

        Raises:
            InvalidRequest: There is no cache in the folder.
            RayscopeError: The manifest is damaged.
        """
        path = folder / FILE_NAME
        lines = _whole_lines(path) if path.exists() else []
        if not lines:
            raise InvalidRequest("The folder holds no cache of activations.", "Run a caching job into it first.")
        try:
            job = json.loads(lines[0])["job"]
            units = [_unit(json.loads(line)) for line in lines[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise RayscopeError(
                "The manifest of the cache is damaged.", "Remove the folder and cache again; no crash leaves this."
            ) from error
        return cls(folder, job, {unit.name: unit for unit in units})

    def __contains__(self, name: str) -> bool:
        return name in self._units

    def __getitem__(self, name: str) -> Unit:
        return self._units[name]

    def units(self, kind: str) -> list[Unit]:
        """All units whose names begin with `kind` and a slash, as they were first added."""
        return [unit for name, unit in self._units.items() if name.startswith(f"{kind}/")]

    def add(self, unit: Unit) -> None:
        """Adds a unit whose files are in their places."""
        self._append(_described(unit))
        self._units[unit.name] = unit

    def settle(self, names: Sequence[str]) -> None:
        """Keeps these units, in this order. A finished job's bytes then do not tell in which order it was done."""
        lines = [_line({"job": self.job}), *(_line(_described(self._units[name])) for name in names)]
        path = self.folder / FILE_NAME
        if path.read_bytes() != b"".join(lines):
            write_bytes(path, b"".join(lines))
        self._units = {name: self._units[name] for name in names}

    def damaged(self) -> list[str]:
        """Paths of the files whose bytes are not those that were written. Reads everything."""
        files: Sequence[StoredFile] = [file for unit in self._units.values() for file in unit.files]
        return [file.path for file in files if not check_sum(self.folder, file)]

    def forget(self, paths: Sequence[str]) -> None:
        """Leaves out the units that have one of these files, so that they are made again."""
        self.settle([name for name, unit in self._units.items() if not any(file.path in paths for file in unit.files)])

    def _append(self, line: Mapping[str, Any]) -> None:
        with (self.folder / FILE_NAME).open("ab") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


def _described(unit: Unit) -> dict[str, Any]:
    return {"unit": unit.name, "counts": dict(unit.counts), "files": [asdict(file) for file in unit.files]}


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """Lines that end; one that does not was never finished."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _unit(line: Mapping[str, Any]) -> Unit:
    files = tuple(
        StoredFile(
            file["path"],
            file["sha256"],
            file["size_bytes"],
            {name: (dtype, tuple(shape)) for name, (dtype, shape) in file["tensors"].items()},
        )
        for file in line["files"]
    )
    return Unit(line["unit"], files, line["counts"])
