"""Embedder: one replica holds an embedding model, on the CPU or on a share of a GPU, and embeds for everybody."""

import asyncio
import os
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from cluster.autointerp_arguments import EmbedderArgs
from core.autointerp.embedder import (
    BatchedEmbedder,
    EmbedderSettings,
    Kind,
    SentenceModel,
    Vectors,
    load_sentence_model,
)
from core.deadline import Deadline
from core.device import DeviceExecutor, limit_memory, resolve_device
from core.errors import NotFound
from deployments.metrics import RayMetrics

_PACKAGE = "package:"
_PROBE_TIMEOUT_S = 25.0


class Embedder:
    """Thin: loads a model and hands texts to a `BatchedEmbedder`. What can not be loaded is tried again when asked."""

    async def __init__(self, args: EmbedderArgs) -> None:
        self._args = args
        self._metrics = RayMetrics()
        self._loading: asyncio.Task[None] | None = None
        self._loaded: tuple[DeviceExecutor, BatchedEmbedder] | None = None
        if args.preload:
            await self._load()

    async def embed(self, texts: list[str], kind: Kind, deadline: Deadline) -> Vectors:
        """See `core.autointerp.embedder.Embedder`."""
        while self._loaded is None:
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self._load())
            async with deadline.limit():
                await asyncio.shield(self._loading)  # others wait for it too
        return await self._loaded[1].embed(texts, kind, deadline)

    async def check_health(self) -> None:
        """Fails if the device does not answer; Serve then starts another replica."""
        if self._loaded is not None:
            await self._loaded[0].probe(_PROBE_TIMEOUT_S)

    async def __del__(self) -> None:
        """Lets the step under way answer."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._loaded is not None:
            device, embedder = self._loaded
            await embedder.aclose()
            await device.aclose()

    async def _load(self) -> None:
        name = await asyncio.to_thread(resolve_device, self._args.device)
        device = DeviceExecutor(name, metrics=self._metrics)
        settings = settings_of(self._args)
        try:
            model = await device.run(_model, settings, name, self._args)
        except BaseException:
            await device.aclose()
            raise
        self._loaded = device, BatchedEmbedder(model, settings, device, self._metrics)


def settings_of(args: EmbedderArgs) -> EmbedderSettings:
    """The arguments as the model's settings."""
    return EmbedderSettings(
        args.model,
        args.query_prefix,
        args.text_prefix,
        args.device,
        offline=args.offline,
        trusts_code=args.trusts_code,
        max_tokens=args.max_tokens,
    )


def _model(settings: EmbedderSettings, device: str, args: EmbedderArgs) -> SentenceModel:
    limit_memory(args.num_gpus or 1.0, device)
    if device == "cpu":
        import torch

        torch.set_num_threads(args.threads or os.cpu_count() or 1)  # OpenMP counts per thread, and this is the one
    return load_sentence_model(replace(settings, model=weights_of(settings.model)))


def weights_of(model: str) -> str:
    """A model's id or folder; of `package:NAME` the folder that the Python package NAME carries.

    Raises:
        NotFound: There is no such package, or it carries no weights.
    """
    if not model.startswith(_PACKAGE):
        return model
    name = model.removeprefix(_PACKAGE)
    folder = getattr(import_module(name), "MODEL_DIR", None) if find_spec(name) is not None else None
    if folder is None:
        raise NotFound(f"There is no package {name} that carries an embedding model.", "Install it, or name a model.")
    return str(folder)
