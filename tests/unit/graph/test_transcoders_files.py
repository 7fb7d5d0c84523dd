"""Weight files give the numbers that were saved, keep little in memory, and refuse what would run code."""

import json
import mmap
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import InvalidRequest
from core.graph.transcoders.budget import ByteBudget
from core.graph.transcoders.files import WeightFile, open_weights

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mapped_kib(path: Path) -> int:
    """Resident memory that the kernel counts for the mappings of a file."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            here = fields[-1] == str(path)
        elif here and fields[0] == "Rss:":
            total += int(fields[1])
    return total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_safetensors_file_gives_the_tensors_that_were_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a": noise(5, 3).to(dtype), "b": noise(7, seed=1).to(dtype), "c": noise(2, 3, 4, seed=2).to(dtype)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = open_weights(tmp_path / "x.safetensors")
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(file.tensor(name), tensor)
        assert file.tensor(name).dtype == dtype


@pytest.mark.parametrize("padding", range(8))
def test_a_file_whose_numbers_are_not_aligned_is_read_all_the_same(padding: int, tmp_path: Path) -> None:
    weights = noise(3, 2)
    header = json.dumps({"W": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}).encode() + b" " * padding
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights.numpy().tobytes())
    assert torch.equal(open_weights(tmp_path / "x.safetensors").tensor("W")[torch.tensor([2, 0])], weights[[2, 0]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_an_npz_file_gives_the_arrays_that_were_saved(save: object, tmp_path: Path) -> None:
    arrays = {"W_enc": noise(5, 3).numpy(), "threshold": noise(3).numpy()}
    save(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportCallIssue]
    file = open_weights(tmp_path / "x.npz")
    assert file.shapes == {"W_enc": (5, 3), "threshold": (3,)}
    assert file.held_bytes == 0
    assert all(torch.equal(file.tensor(name), torch.from_numpy(array)) for name, array in arrays.items())
    assert file.held_bytes == 4 * (15 + 3)
    file.release()
    assert file.held_bytes == 0


def test_a_mapped_file_says_what_it_may_hold_and_leaves_memory_when_released(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    weights = noise(4096, 1024)  # 16 MiB
    save_file({"W": weights}, path)
    file = open_weights(path)
    assert file.held_bytes == 0
    chosen = torch.arange(0, 4096, 512)
    assert torch.equal(file.tensor("W")[chosen], weights[chosen])
    assert 0 < 1024 * mapped_kib(path) <= file.held_bytes + mmap.PAGESIZE
    file.release()
    assert (mapped_kib(path), file.held_bytes) == (0, 0)
    assert torch.equal(file.tensor("W")[chosen], weights[chosen])


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.pth", "weights.pkl", "weights.ckpt"])
def test_a_pickle_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    torch.save({"W_enc": noise(2)}, tmp_path / name)
    with pytest.raises(InvalidRequest, match=f"{name} is a pickle"):
        open_weights(tmp_path / name)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # pyright: ignore

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_a_pickle_in_place_of_weights_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Trap(witness)))
    np.savez(tmp_path / "b.npz", W_enc=np.array([Trap(witness)], dtype=object))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Trap(witness)))
    for name in ("a.safetensors", "b.npz", "c.npz"):
        with pytest.raises(InvalidRequest, match=name):
            open_weights(tmp_path / name)
    assert not witness.exists()


def damaged(entry: dict[str, object], body: bytes) -> bytes:
    header = json.dumps({"W": entry}).encode()
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        damaged({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, b"\0" * 8),
        damaged({"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, b"\0" * 16),
        damaged({"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]}, b"\0" * 16),
        damaged({"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}, b"\0" * 16),
        damaged({"shape": [4]}, b"\0" * 16),
        struct.pack("<Q", 2) + b"[]",
    ],
    ids=["empty", "junk", "cut off", "too small", "negative", "dtype", "no offsets", "no mapping"],
)
def test_a_damaged_file_is_refused_before_it_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"x\.safetensors is not a safetensors file, or it is damaged"):
        open_weights(tmp_path / "x.safetensors")


def test_the_files_used_longest_ago_give_way_to_the_budget(tmp_path: Path) -> None:
    files: list[WeightFile] = []
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", W=noise(10, 10).numpy())
        files.append(open_weights(tmp_path / f"{name}.npz"))
    budget = ByteBudget(800)
    for used in (0, 1, 0, 2):
        files[used].tensor("W")
        budget.used(files[used])
        assert budget.held_bytes <= 800
    assert [file.held_bytes for file in files] == [400, 0, 400]


def test_a_file_larger_than_the_budget_is_used_and_not_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", W=noise(10, 10).numpy())
    file, budget = open_weights(tmp_path / "a.npz"), ByteBudget(399)
    rows = file.tensor("W")
    budget.used(file)
    assert (file.held_bytes, budget.held_bytes, rows.shape) == (0, 0, (10, 10))
