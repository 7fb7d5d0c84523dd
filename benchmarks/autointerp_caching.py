"""Caching in `make bench-autointerp`, one engine in a process of its own: a corpus through the demo and all its SAEs.

    python -m benchmarks.autointerp_caching ORDER

    ours     texts -> tokens -> records on disk -> reservoirs on disk     `cache_activations`
    delphi   tokens -> records in memory -> records on disk               its `LatentCache`

Both begin at weights in a folder and keep the same activations, which are counted. A run over two windows comes first,
so that libraries are loaded; more would leave memory behind that the run which is measured could use again, unseen.
delphi is given tokens where we read texts, and the SAEs encode by the same code: delphi's own does not read SAELens'.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.autointerp_cases import CONTEXT_TOKENS, SOURCE_SET, Cases
from benchmarks.autointerp_timing import CachingOrder, Found, report
from core.autointerp.caching.job import CachingProgress, cache_activations
from core.autointerp.delphi_import import delphi_module
from core.catalogue.catalogue import find_sources
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.graph.circuit_tracer.worker.meter import Meter
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae

_WARM_UP_WINDOWS = 2
_SPLITS = 5  # delphi's `CacheConfig.n_splits`


@dataclass(slots=True)
class _Cached:
    """What a run came to.

    Attributes:
        tokens: Tokens read.
        records: Activations kept, over all layers.
        recorded_s: When, by `time.perf_counter`, they were all on disk.
    """

    tokens: int
    records: int
    recorded_s: float


def _ours(cases: Cases, n_tokens: int, folder: Path) -> _Cached:
    recorded_s = 0.0

    def follow(progress: CachingProgress) -> None:
        nonlocal recorded_s
        if progress.stage == "recording":
            recorded_s = time.perf_counter()

    done = cache_activations(cases.caching(n_tokens, folder), follow)
    return _Cached(done.windows * CONTEXT_TOKENS, sum(done.records.values()), recorded_s)


def _delphi(windows: torch.Tensor, batch_windows: int, folder: Path) -> _Cached:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(ARTEFACTS / "model", dtype="auto").eval()
    sources = find_sources(DEMO_MODEL_ID, (SOURCE_SET,))
    encoders = {f"layers.{source.layer}": _encoder(load_sae(source, dtype="float32")) for source in sources}
    batch_size = min(batch_windows, len(windows))
    cache = delphi_module("latents.cache").LatentCache(model, encoders, batch_size=batch_size)
    cache.run(windows.numel(), windows)
    cache.save_splits(_SPLITS, folder)
    records = sum(len(kept) for kept in cache.cache.latent_activations.values())
    read = next(iter(cache.cache.tokens.values())).numel()
    return _Cached(read, records, time.perf_counter())


def _encoder(sae: LoadedSae) -> Callable[[torch.Tensor], torch.Tensor]:
    """`[batch, pos, d]` to codes of the same shape, as delphi calls it."""
    return lambda activations: sae.encode(activations.flatten(0, 1)).unflatten(0, activations.shape[:2])


def measure(order: CachingOrder) -> Found:
    """What caching took, and what it kept."""
    cases = Cases(Path(order.cases))
    run = _engine(cases, order)
    with tempfile.TemporaryDirectory(prefix="caching-") as root:
        run(_WARM_UP_WINDOWS * CONTEXT_TOKENS, Path(root) / "warm-up")
        shutil.rmtree(Path(root) / "warm-up")
        began_s = time.perf_counter()
        with Meter() as meter:
            cached = run(order.n_tokens, Path(root) / "cache")
        size_bytes = sum(file.stat().st_size for file in (Path(root) / "cache").rglob("*") if file.is_file())
    return {
        "tokens": cached.tokens,
        "records": cached.records,
        "recorded_s": cached.recorded_s - began_s,
        "size_bytes": size_bytes,
        **meter.cost,
    }


def _engine(cases: Cases, order: CachingOrder) -> Callable[[int, Path], _Cached]:
    if order.engine == "ours":
        return lambda n_tokens, folder: _ours(cases, n_tokens, folder)
    assert order.batch_windows is not None
    batch_windows = order.batch_windows
    windows = torch.from_numpy(cases.windows(order.n_tokens)).long()
    return lambda n_tokens, folder: _delphi(windows[: n_tokens // CONTEXT_TOKENS], batch_windows, folder)


def main(words: Sequence[str]) -> None:
    """Measures what is ordered on the command line."""
    order = CachingOrder.read(words)
    torch.set_num_threads(order.threads)
    report(measure(order))


if __name__ == "__main__":
    main(sys.argv[1:])
