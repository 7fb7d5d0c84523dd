"""A caching job on a cluster: the pieces of `core.autointerp.caching.job`, done by Ray Data.

    one reading task --parts of tokens, then ranges of latents--> pool of workers --units--> the driver --> manifest

Texts are read, tokenised and cut where the reading task runs, one part after another and no faster than the workers
take them, so neither texts nor tokens pass through the driver. Windows run on across documents, so that stream has one
order and one reader. When all its parts are in the manifest, it goes on with the ranges that are to be distilled, for
the same workers, which hold the model and its SAEs. Workers write their files into the cache's folder, which every
node must see, and send what belongs into the manifest; the driver, and it alone, enters that. So a worker that dies
costs its part a retry, and a job that was stopped goes on where it was, here or in one process.

No event loop is blocked as long as this is called in a thread.
"""

import math
import pickle
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from cluster.autointerp_caching_arguments import CachingWorkerArgs
from core.autointerp.caching.corpus import TokenPart
from core.autointerp.caching.job import CachingJob, CachingResult, parts_of
from core.autointerp.caching.loaded import Loaded
from core.autointerp.caching.manifest import FILE_NAME, Manifest, Unit
from core.autointerp.caching.progress import CachingProgress, Meter
from core.autointerp.caching.specification import CachingSpec
from core.catalogue.catalogue import find_model, weights_location
from core.catalogue.sources import Source
from core.clock import SYSTEM_CLOCK, Clock
from core.device import limit_memory
from core.errors import InvalidRequest, RayscopeError, Unavailable
from core.prompts import PromptTokenizer

_MESSAGE: Final = "message"
_TASKS_PER_WORKER: Final = 2  # one that is done and one that is fetched meanwhile
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Range:
    """Latents to be distilled, once so many windows were recorded."""

    source: str
    latents: range
    n_windows: int


def cache_activations_on_cluster(
    spec: CachingSpec,
    report: Callable[[CachingProgress], None] = lambda _: None,
    *,
    workers: CachingWorkerArgs,
    check_sums: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> CachingResult:
    """Caches what is not cached yet, on the cluster that this process is connected to. Blocks until it is done.

    Args:
        spec: What and where; all nodes see the folder, and texts and weights that lie in folders.
        report: Is told after every part and every range, on this thread. What it raises stops the job and its
            workers; the job can be gone on with.
        workers: Who does it.
        check_sums: Whether to read all that is cached already and make again what is damaged.
        clock: Measures the rate.

    Raises:
        InvalidRequest: The specification can not be met, or the folder holds another job's cache.
        NotFound: The model has no such source set.
        TooLarge: A part has more activations than may be kept.
        Unavailable: Texts or weights could not be had, workers died, or the folder is not shared.
    """
    if spec.device.startswith("cuda") and not workers.num_gpus:
        raise InvalidRequest(
            "Activations are to be cached on a GPU by workers that reserve none.", "Give num_gpus, or device 'cpu'."
        )
    job = CachingJob.begin(spec, check_sums=check_sums)
    recording = Meter("recording", spec.n_windows, report, clock, spec.windows.context_tokens)
    distilling = Meter("distilling", job.n_latents, report, clock)
    if job.parts:
        recording.found(sum(part.counts["windows"] for part in job.parts))
    missing = [(source, latents) for source, latents, is_distilled in job.ranges() if not is_distilled]
    distilled = job.n_latents - sum(len(latents) for _, latents in missing)
    if distilled:
        distilling.found(distilled)
    recording.start()
    distilling.start()
    with closing(_units(job, _Work(spec, {part.name for part in job.parts}, missing), workers)) as units:
        for unit in units:
            job.add(unit)
            if "latents" in unit.counts:
                distilling.made(unit.counts["latents"])
            else:
                recording.made(unit.counts["windows"])
                distilling.start()
    return job.finish()


def _units(job: CachingJob, work: "_Work", workers: CachingWorkerArgs) -> Generator[Unit]:
    """What the workers make, as it comes. Closing it stops everything and frees the workers."""
    started = _Started(workers.retries)
    with DataContext.current(_context()):
        messages = ray.data.read_datasource(work, override_num_blocks=1, num_cpus=workers.reader_cpus)
        done = messages.map_batches(
            _Worker,
            fn_constructor_args=(job.spec, job.sources, workers),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=workers.min_workers,
                max_size=workers.max_workers,
                max_tasks_in_flight_per_actor=_TASKS_PER_WORKER,
            ),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
            ray_remote_args_fn=started.options,
        )
    batches: Any = iter(done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        with closing(batches):
            for batch in batches:
                for outcome in _read(batch):
                    if isinstance(outcome, RayscopeError):
                        raise outcome
                    yield outcome
    except RayError as error:
        raise Unavailable(
            f"The workers of the caching job failed ({type(error).__name__}).",
            "Their logs say more. Run the job again on the same folder: it goes on.",
        ) from error
    finally:
        started.end()


class _Started:
    """The workers that Ray Data has started, by name, so that none outlives the job.

    Ray Data lets go of workers that run, but not of one that is starting again when a job is given up; that one would
    hold its share of the GPU for as long as the driver lives.

    Args:
        retries: How often a piece of work is tried again.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._job = uuid4().hex
        self._names: list[str] = []

    def options(self) -> dict[str, Any]:
        """Ray's options for one more worker."""
        self._names.append(f"caching-{self._job}-{len(self._names)}")
        return {"name": self._names[-1], "max_restarts": -1, "max_task_retries": self._retries}

    def end(self) -> None:
        """Ends those that are left."""
        for name in self._names:
            with suppress(ValueError):  # gone, as it should be
                ray.kill(ray.get_actor(name), no_restart=True)


def _context() -> DataContext:
    """Ray Data's settings here: every part is a block and so a task of its own."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


class _Work(Datasource):
    """All that is to be done, made by one task.

    Args:
        spec: The job.
        recorded: Names of the parts that were recorded before; they are compared and left out.
        missing: Sources with latents that are to be distilled.
    """

    def __init__(self, spec: CachingSpec, recorded: Collection[str], missing: Sequence[tuple[str, range]]) -> None:
        super().__init__()
        self._spec = spec
        self._recorded = frozenset(recorded)
        self._missing = tuple(missing)

    def get_name(self) -> str:
        """For Ray's views."""
        return "CachingWork"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of all tokens."""
        return 4 * self._spec.n_tokens

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """The one task."""
        metadata = BlockMetadata(num_rows=None, size_bytes=4 * self._spec.n_tokens, input_files=None, exec_stats=None)
        return [ReadTask(partial(_work, self._spec, self._recorded, self._missing), metadata)]


def _work(spec: CachingSpec, recorded: Collection[str], missing: Sequence[tuple[str, range]]) -> Iterator[pa.Table]:
    tokenizer = PromptTokenizer.load(weights_location(find_model(spec.model).weights))
    n_windows = 0
    try:
        for part, is_recorded in parts_of(spec, tokenizer, recorded):
            n_windows += len(part.tokens)
            if not is_recorded:
                yield _written([part])
        if n_windows and missing:
            _wait_for(Path(spec.folder), n_windows)
            for source, latents in missing:
                yield _written([_Range(source, latents, n_windows)])
    except RayscopeError as error:
        yield _written([error])


def _wait_for(folder: Path, n_windows: int) -> None:
    """Until so many windows are in the manifest. If they never will be, the driver ends this task."""
    size = -1
    while True:
        now = (folder / FILE_NAME).stat().st_size
        if now != size and sum(part.counts["windows"] for part in Manifest.read(folder).units("part")) >= n_windows:
            return
        size = now
        time.sleep(_POLL_S)


class _Worker:
    """One worker. What it needs is loaded with its first piece of work, so that a finished job loads nothing."""

    def __init__(self, spec: CachingSpec, sources: Collection[Source], args: CachingWorkerArgs) -> None:
        import torch

        torch.set_num_threads(args.threads or max(1, math.floor(args.num_cpus)))
        if args.num_gpus:
            limit_memory(args.num_gpus, spec.device)
        self._spec = spec
        self._loaded = Loaded(spec, list(sources))
        self._recorded: list[Unit] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Does what the messages say; an error of ours is a message too, since Ray would wrap it."""
        return _written([self._outcome(message) for message in _read(batch)])

    def _outcome(self, message: TokenPart | _Range | RayscopeError) -> Unit | RayscopeError:
        try:
            match message:
                case RayscopeError():
                    return message
                case TokenPart():
                    return self._loaded.record(message)
                case _Range(source, latents, n_windows):
                    return self._loaded.distil(self._parts(n_windows), source, latents)
        except RayscopeError as error:
            return error

    def _parts(self, n_windows: int) -> list[Unit]:
        if self._recorded is None:
            recorded = Manifest.read(Path(self._spec.folder)).units("part")
            if sum(part.counts["windows"] for part in recorded) != n_windows:
                raise Unavailable(
                    "A worker sees another manifest than the reader of the texts does.",
                    "The cache's folder must be one that all machines see alike. Run the job again: it goes on.",
                )
            self._recorded = recorded
        return self._recorded


def _written(messages: Iterable[Any]) -> pa.Table:
    return pa.table({_MESSAGE: pa.array([pickle.dumps(message) for message in messages], pa.binary())})


def _read(batch: pa.Table) -> Iterator[Any]:
    """Only this module writes these messages, and they do not leave the cluster."""
    for message in batch.column(_MESSAGE) if batch.num_rows else ():
        yield pickle.loads(message.as_py())
