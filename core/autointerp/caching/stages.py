"""The two pieces of work of a caching job. Each makes one unit of the manifest, out of its arguments and files only.

    record_part     a part of tokens -> its token file, one records file per source
    distil_range    the records of a range of latents over all parts -> their reservoir and token effects

They write files and return what belongs into the manifest; adding it is the driver's, in one process here, in one
place of a distributed job as well. Running one twice writes the same bytes twice.
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from core.autointerp.caching.corpus import TokenPart
from core.autointerp.caching.logits import TokenEffects
from core.autointerp.caching.manifest import Unit
from core.autointerp.caching.parts import read_records, write_records, write_tensors
from core.autointerp.caching.recording import Recorder
from core.autointerp.caching.reservoirs import (
    Reservoir,
    ReservoirShape,
    empty_reservoir,
    merge_reservoirs,
    reservoir_of,
    tensors_of,
)


def part_name(number: int) -> str:
    """Name of a part's unit."""
    return f"part/{number}"


def range_name(source: str, start: int) -> str:
    """Name of the unit of a range of latents."""
    return f"reservoir/{source}/{start}"


def tokens_path(number: int) -> str:
    """Where a part's tokens lie."""
    return f"tokens/part-{number:05}.safetensors"


def records_path(source: str, number: int) -> str:
    """Where a source's records over a part lie."""
    return f"records/{source}/part-{number:05}.safetensors"


def reservoir_path(source: str, start: int, end: int) -> str:
    """Where the reservoir of latents `start` to `end - 1` lies."""
    return f"reservoirs/{source}/{start}-{end}.safetensors"


def record_part(recorder: Recorder, part: TokenPart, folder: Path) -> Unit:
    """Records a part and stores it. Runs on the thread that owns the device.

    Raises:
        TooLarge: More activations pass the threshold than may be kept.
    """
    recorded = recorder.record(part)
    files = [write_tensors(folder, tokens_path(part.number), {"tokens": part.tokens})]
    counts = {"first_window": part.first_window, "windows": len(part.tokens), "tokens": part.tokens.size}
    for source, records in recorded.items():
        files.append(write_records(folder, records_path(source, part.number), records))
        counts[f"records/{source}"] = len(records)
    return Unit(part_name(part.number), tuple(files), counts)


def distil_range(
    folder: Path,
    parts: Iterable[Unit],
    source: str,
    latents: range,
    *,
    context_tokens: int,
    shape: ReservoirShape,
    effects: TokenEffects | None,
) -> Unit:
    """Makes and stores the reservoir of a range of latents from the stored records of all parts.

    Args:
        folder: The cache.
        parts: All its parts.
        source: Source id.
        latents: Which latents.
        context_tokens: Tokens of a window.
        shape: How much is kept.
        effects: The latents' token effects, to lie beside it; None where there are none.
    """
    parts = list(parts)
    n_windows = sum(part.counts["windows"] for part in parts)
    pool = shape.pool(n_windows * shape.windows_of(context_tokens))
    reservoir: Reservoir = empty_reservoir(latents.start, len(latents), shape, pool)
    for part in parts:
        records = read_records(folder, records_path(source, _number(part)), latents.start, latents.stop)
        seen = reservoir_of(
            records,
            source,
            first_window=part.counts["first_window"],
            context_tokens=context_tokens,
            shape=shape,
            pool=pool,
        )
        reservoir = merge_reservoirs([reservoir, seen], shape)
    tensors = tensors_of(reservoir)
    if effects is not None:
        tensors |= {f"effects.{field.name}": getattr(effects, field.name) for field in fields(TokenEffects)}
    file = write_tensors(folder, reservoir_path(source, latents.start, latents.stop), tensors)
    counts = {
        "alive": int((reservoir.fired_tokens > 0).sum()),
        "records": int(reservoir.fired_tokens.sum()),
        "latents": len(latents),
    }
    return Unit(range_name(source, latents.start), (file,), counts)


def _number(part: Unit) -> int:
    return int(part.name.removeprefix("part/"))
