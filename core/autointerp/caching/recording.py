"""One part of a corpus through the model and its SAEs, to what is not zero.

    tokens [windows, context] --batches--> one stopped forward pass for all hook points
        --per source, in slices--> codes [rows, d_sae] --threshold, on the device--> (window, position, latent, value)

A dense encoding exists for one slice of one source at a time; only what passes the threshold leaves the device. So
memory is a batch's activations, one slice and the part's records, whatever the corpus. The last window counts like the
first: no batch is dropped.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.autointerp.caching.corpus import TokenPart
from core.autointerp.caching.records import Records
from core.engine.model import EagerModel
from core.errors import TooLarge
from core.saes.encoder import LoadedSae


@dataclass(frozen=True, slots=True)
class RecordingLimits:
    """What bounds memory.

    Attributes:
        batch_tokens: Tokens of a forward pass; at least one window is always taken.
        slice_numbers: Numbers of one dense encoding, 4 bytes each in float32.
        max_records: Activations kept of one part, over all sources.
    """

    batch_tokens: int = 4096
    slice_numbers: int = 2**23
    max_records: int = 2**27


@dataclass(frozen=True, slots=True)
class _Entries:
    """Some activations of one source, `[n]` each."""

    latents: NDArray[np.int32]
    windows: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    activations: NDArray[np.float32]


class Recorder:
    """Records parts. All methods run on the thread that owns the device.

    Args:
        model: The model.
        saes: Its SAEs, resident for as long as the recorder is used.
        threshold: Activations above it are kept.
        silent_tokens: Ids of tokens at which nothing is kept: BOS, where most latents fire and mean nothing.
        limits: What bounds memory.
    """

    def __init__(
        self,
        model: EagerModel,
        saes: Sequence[LoadedSae],
        *,
        threshold: float = 0.0,
        silent_tokens: Collection[int] = (),
        limits: RecordingLimits | None = None,
    ) -> None:
        self._model = model
        self._saes = saes
        self._threshold = threshold
        self._silent = sorted(silent_tokens)
        self._limits = limits or RecordingLimits()

    @torch.inference_mode()
    def record(self, part: TokenPart) -> dict[str, Records]:
        """What each source's latents do over a part, by source id.

        Raises:
            TooLarge: More activations pass the threshold than may be kept.
            InvalidRequest: The tokens are not ones that the model can read.
        """
        context = part.tokens.shape[1]
        at_once = max(1, self._limits.batch_tokens // context)
        kept: dict[str, list[_Entries]] = {sae.source: [] for sae in self._saes}
        total = 0
        for first in range(0, len(part.tokens), at_once):
            tokens = part.tokens[first : first + at_once]
            prompts = tokens.tolist()
            for prompt in prompts:
                self._model.check_prompt(prompt)
            capture = self._model.capture(prompts, {sae.hook_name for sae in self._saes})
            loud = torch.from_numpy(~np.isin(tokens, self._silent))
            for sae in self._saes:
                for entries in self._entries(sae, capture.activations[sae.hook_name], loud, first):
                    total += len(entries.latents)
                    if total > self._limits.max_records:
                        raise TooLarge(
                            f"More than {self._limits.max_records} activations of part {part.number} pass the "
                            f"threshold of {self._threshold:g}.",
                            "Make parts smaller, raise the threshold or cache fewer sources at once.",
                        )
                    kept[sae.source].append(entries)
        return {sae.source: _joined(kept.pop(sae.source), sae.d_sae) for sae in self._saes}

    def _entries(self, sae: LoadedSae, activations: torch.Tensor, loud: torch.Tensor, first: int) -> Iterator[_Entries]:
        """Encodes `[batch, context, d]`, of which `loud` `[batch, context]` is kept, slice by slice."""
        context = activations.shape[1]
        if sae.sequential:
            for row in range(len(activations)):
                places = torch.arange(row * context, (row + 1) * context)
                codes = sae.encode(activations[row])[loud[row].to(activations.device)]
                yield self._sparse(codes, places[loud[row]], context, first)
            return
        flat = activations.flatten(0, 1)
        at_once = max(1, self._limits.slice_numbers // sae.d_sae)
        for places in loud.flatten().nonzero().squeeze(1).split(at_once):
            yield self._sparse(sae.encode(flat[places.to(flat.device)]), places, context, first)

    def _sparse(self, codes: torch.Tensor, places: torch.Tensor, context: int, first: int) -> _Entries:
        """What passes in `[rows, d_sae]`, whose rows are tokens number `places` of the batch."""
        rows, latents = (codes > self._threshold).nonzero(as_tuple=True)
        values = codes[rows, latents].float().cpu().numpy()
        at = places[rows.cpu()].numpy()
        return _Entries(
            latents.to(torch.int32).cpu().numpy(),
            (at // context + first).astype(np.uint16),
            (at % context).astype(np.uint16),
            values,
        )


def _joined(entries: Sequence[_Entries], n_latents: int) -> Records:
    return Records.sorted_from(
        n_latents,
        np.concatenate([np.empty(0, np.int32), *(some.latents for some in entries)]),
        np.concatenate([np.empty(0, np.uint16), *(some.windows for some in entries)]),
        np.concatenate([np.empty(0, np.uint16), *(some.positions for some in entries)]),
        np.concatenate([np.empty(0, np.float32), *(some.activations for some in entries)]),
    )
