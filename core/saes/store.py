"""Where a Runner's SAEs come from: the loader under the residency.

Reading and folding weights happens in a worker thread, so the event loop goes on answering; copies to and from a GPU go
through the device's own thread, because nothing else may touch it.
"""

import asyncio
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from core.catalogue.sources import Source
from core.device import DeviceExecutor
from core.errors import NotFound
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae


class SaeStore:
    """Loads the sources of one Runner by id (`core.residency.Loader`)."""

    def __init__(self, sources: Mapping[str, Source], *, dtype: str, device_name: str, device: DeviceExecutor) -> None:
        self._sources = sources
        self._dtype = dtype
        self._device_name = device_name
        self._device = device

    def size_bytes(self, key: str, /) -> int:
        """Bytes of the loaded weights, from the configuration alone."""
        return self._source(key).size_bytes(self._dtype)

    async def load(self, key: str, /) -> LoadedSae:
        """Reads an SAE from disk or hub and puts it on the device."""
        loaded = await asyncio.to_thread(load_sae, self._source(key), dtype=self._dtype)
        return loaded if self._device_name == "cpu" else await self.to_device(key, loaded)

    async def to_host(self, key: str, value: LoadedSae, /) -> LoadedSae:
        """A copy in host memory."""
        return await self._device.run(_moved, value, "cpu")

    async def to_device(self, key: str, host_value: LoadedSae, /) -> LoadedSae:
        """A copy on the device."""
        return await self._device.run(_moved, host_value, self._device_name)

    def _source(self, key: str) -> Source:
        source = self._sources.get(key)
        if source is None:
            raise NotFound(
                f"This replica serves no source '{key}'.", f"It serves {', '.join(self._sources) or 'none'}."
            )
        return source


def _moved(loaded: LoadedSae, device: str) -> LoadedSae:
    """A copy on another device, which needs nothing of the original; that keeps its weights where they are."""
    original: Any = loaded.sae
    twin = copy.copy(original)
    twin._parameters = {name: p if p is None else p.detach().to(device) for name, p in original._parameters.items()}
    twin._modules = {name: copy.deepcopy(module).to(device) for name, module in original._modules.items()}
    twin.cfg = dataclasses.replace(original.cfg, device=device)
    twin.device = twin.W_dec.device
    # SAELens' normalisation closes over the SAE, and so would keep the original's weights where they are.
    twin._setup_activation_normalization()
    return LoadedSae(loaded.source, loaded.hook_name, twin)
