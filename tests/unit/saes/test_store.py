"""Copies between host and device are whole, and leave the original alone."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from core.device import DeviceExecutor
from core.errors import NotFound, Unavailable
from core.saes.encoder import LoadedSae
from core.saes.store import SaeStore

from .kinds import KINDS, activations, loaded, saved

every = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def opened(kind: str, folder: Path, device: str = "cpu") -> AsyncIterator[SaeStore]:
    source = saved(kind, folder)
    executor = DeviceExecutor("cpu")
    try:
        yield SaeStore({source.id: source}, dtype="float32", device_name=device, device=executor)
    finally:
        await executor.aclose()


def run(kind: str, folder: Path, body: Callable[[SaeStore], Coroutine[Any, Any, Any]], device: str = "cpu") -> Any:
    async def main() -> Any:
        async with opened(kind, folder, device) as store:
            return await body(store)

    return asyncio.run(main())


def tensors(sae: LoadedSae) -> list[torch.Tensor]:
    """Every tensor of the SAE, however deep, whether it counts as a parameter or not."""
    registered = [value for part in sae.sae.modules() for value in part._parameters.values()]
    return [value for value in (*registered, *sae.sae.buffers()) if value is not None]


@every
def test_copies_encode_as_the_original_does(kind: str, tmp_path: Path) -> None:
    async def body(store: SaeStore) -> None:
        original = await store.load("1-kind")
        expected = original.encode(activations())
        host = await store.to_host("1-kind", original)
        back = await store.to_device("1-kind", host)
        for copy in (host, back, original):
            assert (copy.source, copy.hook_name) == ("1-kind", original.hook_name)
            torch.testing.assert_close(copy.encode(activations()), expected, rtol=0, atol=0)
            torch.testing.assert_close(
                copy.encode_columns(activations(), [4, 2]), expected[:, [4, 2]], rtol=1e-5, atol=1e-5
            )

    run(kind, tmp_path, body)


@every
def test_a_copy_takes_every_tensor_along_and_the_original_stays(kind: str, tmp_path: Path) -> None:
    """`meta` stands in for a GPU: what is not moved there shows."""

    async def body(store: SaeStore) -> None:
        host = await on_cpu(store).load("1-kind")
        before = {name: value.clone() for name, value in host.sae.named_parameters()}
        config = dict(vars(host.sae.cfg))
        moved = await store.to_device("1-kind", host)
        assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
        assert moved.sae.device.type == moved.sae.cfg.device == "meta"
        assert {tensor.device.type for tensor in tensors(host)} == {"cpu"}
        assert vars(host.sae.cfg) == config
        for name, value in host.sae.named_parameters():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)

    run(kind, tmp_path, body, device="meta")


def on_cpu(store: SaeStore) -> SaeStore:
    return SaeStore(store._sources, dtype="float32", device_name="cpu", device=store._device)


@pytest.mark.parametrize(
    "kind",
    ["standard", "standard, layer norm", "standard, constant norm", "topk", "temporal", "temporal, scaled"],
)
def test_a_copy_does_not_keep_the_original_alive(kind: str, tmp_path: Path) -> None:
    async def body(store: SaeStore) -> None:
        # Not `store.load`: the thread that loads may hold on to its result a little longer than it takes to return it.
        original = loaded(kind, tmp_path)
        original.encode(activations())
        alive = [weakref.ref(tensor) for tensor in tensors(original)]
        copy = await store.to_device("1-kind", original)
        del original
        await store._device.run(gc.collect)
        assert copy.d_sae
        assert not [ref for ref in alive if ref() is not None]

    run(kind, tmp_path, body, device="meta")


@every
def test_an_sae_is_loaded_straight_onto_the_device(kind: str, tmp_path: Path) -> None:
    sae = run(kind, tmp_path, lambda store: store.load("1-kind"), device="meta")
    assert {tensor.device.type for tensor in tensors(sae)} == {"meta"}


def test_sizes_are_those_of_the_source(tmp_path: Path) -> None:
    async def body(store: SaeStore) -> None:
        assert store.size_bytes("1-kind") == saved("standard", tmp_path / "again").size_bytes("float32")

    run("standard", tmp_path, body)


def test_a_source_of_another_runner_is_not_found_and_the_hint_names_its_own(tmp_path: Path) -> None:
    async def body(store: SaeStore) -> None:
        with pytest.raises(NotFound, match="no source '2-other'") as refusal:
            store.size_bytes("2-other")
        assert refusal.value.hint == "It serves 1-kind."
        with pytest.raises(NotFound):
            await store.load("2-other")

    run("standard", tmp_path, body)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    async def body(store: SaeStore) -> None:
        (tmp_path / "1-kind" / "sae_weights.safetensors").unlink()
        with pytest.raises(Unavailable):
            await store.load("1-kind")

    run("standard", tmp_path, body)
