"""Single decoder rows, read from the file by slice: steering with a feature needs one row, not the SAE.

A safetensors file in SAELens' own layout is mapped and one row is copied out of it; its length is divided away, as
`loading` folds decoder norms. Other formats (Gemma Scope's npz, say) and architectures whose norms can not be folded
have to be read whole: by whoever holds SAEs anyway, or here, for the one row.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.catalogue.sources import Folder, Source
from core.errors import NotFound
from core.questions import Floats

_KEPT_ROWS: Final = 4096
_READ_AT_ONCE: Final = 2  # a file without slices is read whole
_WEIGHTS_FILE: Final = "sae_weights.safetensors"
# Folding divides each row by its norm in these; the rest is left to SAELens.
_UNIT_ROWS: Final = frozenset({"standard", "gated", "jumprelu"})
_SMALLEST_NORM: Final = 1e-8  # SAELens' own clamp


class DecoderRows:
    """Decoder rows of some sources, the most recently used kept in memory. Lives on one event loop.

    Args:
        sources: By id.
        read_whole: Gets a row through the whole SAE, for files that have no slices.
    """

    def __init__(
        self, sources: Mapping[str, Source], read_whole: Callable[[Source, int], Awaitable[Floats]] | None = None
    ) -> None:
        self._sources = sources
        self._read_whole = read_whole or load_row
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)
        self._rows: OrderedDict[tuple[str, int], Floats] = OrderedDict()

    def source(self, source_id: str) -> Source:
        """A source by id.

        Raises:
            NotFound: This replica does not serve it.
        """
        found = self._sources.get(source_id)
        if found is None:
            raise NotFound(f"This replica serves no source '{source_id}'.")
        return found

    async def row(self, source_id: str, index: int) -> Floats:
        """Decoder row of a feature, `[d_out]` float32, of length 1 wherever decoder norms can be folded.

        Raises:
            NotFound: This replica does not serve the source.
            Unavailable: The weights could not be had.
        """
        key = (source_id, index)
        source = self.source(source_id)
        if key not in self._rows:
            async with self._reading:
                if key not in self._rows:
                    self._rows[key] = await self._read(source, index)
            if len(self._rows) > _KEPT_ROWS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]

    async def _read(self, source: Source, index: int) -> Floats:
        path = await asyncio.to_thread(_weights_file, source) if source.architecture in _UNIT_ROWS else None
        return await (self._read_whole(source, index) if path is None else asyncio.to_thread(_read_slice, path, index))


async def load_row(source: Source, index: int) -> Floats:
    """Decoder row `[d_out]` of a feature, by loading the whole SAE."""
    from core.saes.loading import load_sae

    def load() -> Floats:
        return load_sae(source, dtype="float32").sae.W_dec[index].float().numpy().copy()

    return await asyncio.to_thread(load)


def _read_slice(path: Path, index: int) -> Floats:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        row: Any = file.get_slice("W_dec")[index]
    wide = row.double().numpy()
    return (wide / max(float(np.linalg.norm(wide)), _SMALLEST_NORM)).astype(np.float32)


def _weights_file(source: Source) -> Path | None:
    """The file in SAELens' own layout, or None where the weights come in another format."""
    if isinstance(source.origin, Folder):
        path = Path(source.origin.path) / _WEIGHTS_FILE
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory()[source.origin.release]
    if release.conversion_func is not None:
        return None
    return Path(hf_hub_download(release.repo_id, f"{release.saes_map[source.origin.sae_id]}/{_WEIGHTS_FILE}"))
