"""A subject in this process: a model and the decoder rows of its features, on one device.

    async with open_subject("rayscope-demo", ["res-demo"]) as subject: ...

For commands, tests and benchmarks; a cluster steers the models that it serves. SAEs are not loaded, since a push needs
single decoder rows only.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from core.autointerp.subject import SteeredSubject, Subject
from core.catalogue.catalogue import find_model, find_sources, weights_location
from core.deadline import Deadline
from core.device import DeviceExecutor, DeviceName, resolve_device
from core.errors import InvalidRequest
from core.prompts import PromptTokenizer

if TYPE_CHECKING:
    from core.saes.encoder import LoadedSae

_LIKELIEST: Final = 1000
_MAX_ROWS: Final = 64
_CACHE_TOKENS: Final = 2**15
_PREFILL_TOKENS: Final = 4096
_MAX_WAITING: Final = 4096


@asynccontextmanager
async def open_subject(
    model: str,
    source_sets: Sequence[str],
    set_folders: Mapping[str, str] | None = None,
    *,
    device: DeviceName = "cpu",
    dtype: str = "auto",
) -> AsyncGenerator[Subject]:
    """A model that can be steered with the features of its source sets, until the body ends.

    Args:
        model: Any name of the model.
        source_sets: Its source sets.
        set_folders: Sets that lie in local folders.
        device: Torch device.
        dtype: Of the model's weights; "auto": as they are stored.

    Raises:
        NotFound: There is no such model or set.
        Unavailable: The device is not there, or weights could not be had.
    """
    from core.engine.model import EagerModel
    from core.generation.engine import GenerationEngine, GenerationLimits
    from core.saes.decoder_rows import DecoderRows
    from core.steering.directions import Directions

    sources = {source.id: source for source in find_sources(model, source_sets, set_folders or {})}
    weights = weights_location(find_model(model).weights)
    tokenizer = PromptTokenizer.load(weights)
    name = resolve_device(device)
    executor = DeviceExecutor(name)
    try:
        loaded = await executor.run(EagerModel.load, weights, device=name, dtype=dtype)
        limits = GenerationLimits(_MAX_ROWS, _CACHE_TOKENS, _PREFILL_TOKENS, _MAX_WAITING)
        engine = GenerationEngine(loaded, executor, Directions(DecoderRows(sources)), _no_conditions, limits)
        try:
            yield SteeredSubject(engine.generate, tokenizer, _LIKELIEST, _MAX_ROWS)
        finally:
            await engine.aclose()
    finally:
        await executor.aclose()


@asynccontextmanager
async def _no_conditions(names: Sequence[str], _: Deadline) -> AsyncGenerator[Mapping[str, "LoadedSae"]]:
    if names:
        raise InvalidRequest("Subjects are steered without conditions.")
    yield {}
