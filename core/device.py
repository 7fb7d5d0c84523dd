"""The device's one thread: whatever touches the GPU runs there, one piece of work after another.

    batcher's steps, SAE copies, health probes --> DeviceExecutor.run --> [queue] --> one thread --> device

A slot count on the replica is no mutual exclusion: when a client leaves, its coroutine is cancelled and its
slot is free at once, while the CUDA work that it started in a thread goes on. So the thread is the lock. Work
whose caller left before its turn is never started; work that has started is finished, and the next piece
waits for it.

What can go wrong on the device, and what becomes of it:

    ran out of memory (by type)    Unavailable with advice; the allocator's cache is emptied; work goes on
    a sticky CUDA error (by text)  the device is *broken*: this and every later call fails with Unavailable and
                                   so does `check`, since only a new process gets a new CUDA context
    anything else                  the caller's own exception, unchanged

Deliberately not here: batching (`core.batching`), what the work is, and ending the process.
"""

import asyncio
import gc
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar, cast

from core.clock import SYSTEM_CLOCK, Clock
from core.errors import Unavailable
from core.metrics import DEVICE_BUSY, DEVICE_ERRORS, DEVICE_WAIT, NULL_METRICS, MetricSink

P = ParamSpec("P")
R = TypeVar("R")
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Diagnosis = Literal["fatal", "out_of_memory"]

# After any of these the CUDA context is lost; compared with the lower-cased text of a RuntimeError.
_FATAL_TEXTS: Final = (
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "misaligned address",
    "uncorrectable ecc",
    "cublas_status",
    "cuda error",
    "cuda assertion",
    "an illegal instruction",
)
# These allocators report exhaustion as a plain RuntimeError.
_OUT_OF_MEMORY_TEXTS: Final = ("mps backend out of memory", "defaultcpuallocator")


def resolve_device(name: DeviceName) -> str:
    """The torch device to use; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        Unavailable: The named device is not there.
        ValueError: There is no such name.
    """
    if name == "cpu":
        return name
    if name not in ("auto", "cuda", "mps"):
        raise ValueError(f"unknown device {name!r}: one of auto, cpu, cuda, mps")
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device, is_there in present.items() if is_there), "cpu")
    if not present[name]:
        raise Unavailable(f"no {name} device is visible to this process", "name another device, or auto")
    return name


def limit_memory(fraction: float, device: str) -> None:
    """Let this process have no more than `fraction` of the GPU's memory; nothing happens on other devices.

    Raises:
        ValueError: `fraction` is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"a memory fraction lies in (0, 1], got {fraction}")
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_per_process_memory_fraction(fraction)  # pyright: ignore[reportUnknownMemberType]


def diagnose(error: BaseException) -> Diagnosis | None:
    """What an error of device work says about the device; None if it says nothing.

    Causes and contexts count too, as libraries wrap. Only a `RuntimeError` is judged by its text: that is
    what torch
    raises, while the messages of other errors may quote what a client wrote.
    """
    chain = list(_chain(error))
    exhausted = (MemoryError, *_torch_out_of_memory())
    texts = [str(e).lower() for e in chain if isinstance(e, RuntimeError) and not isinstance(e, exhausted)]
    if any(fatal in text for text in texts for fatal in _FATAL_TEXTS):
        return "fatal"
    if any(isinstance(e, exhausted) for e in chain):
        return "out_of_memory"
    if any(known in text for text in texts for known in _OUT_OF_MEMORY_TEXTS):
        return "out_of_memory"
    if any("out of memory" in text for text in texts):
        return "fatal"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _torch_out_of_memory() -> tuple[type[BaseException], ...]:
    torch = sys.modules.get("torch")  # an error of torch's cannot exist before torch does
    return () if torch is None else (torch.cuda.OutOfMemoryError,)


class _Job:
    """One piece of work and the future of whoever asked for it."""

    __slots__ = ("asked_s", "future", "work")

    def __init__(self, work: Callable[[], object], asked_s: float) -> None:
        self.work = work
        self.asked_s = asked_s
        self.future: Future[object] = Future()


class DeviceExecutor:
    """Runs device work on one thread of its own, so that no two pieces ever overlap.

    The thread is a daemon: a wedged driver call must not keep a dying process alive.
    """

    def __init__(self, device: str = "cpu", *, clock: Clock = SYSTEM_CLOCK, metrics: MetricSink = NULL_METRICS) -> None:
        self._device = device
        self._clock = clock
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._refusal: str | None = None
        self._ended: Future[None] = Future()
        threading.Thread(target=self._serve, name=f"device-{device}", daemon=True).start()

    @property
    def device(self) -> str:
        """The torch device name that the thread owns."""
        return self._device

    async def run(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` on the device thread and return what it returns.

        Cancelled before its turn, `fn` is never called. Cancelled later, the caller is free at once and the
        thread finishes `fn` before it takes anything else. Thread-local state, such as torch's inference
        mode, is `fn`'s to set.

        Raises:
            Unavailable: The device is broken or closed, or `fn` ran out of memory.
        """
        self.check()
        job = _Job(partial(fn, *args, **kwargs), self._clock.monotonic())
        self._jobs.put(job)
        return cast("R", await asyncio.wrap_future(job.future))

    def check(self) -> None:
        """Do nothing while the device takes work.

        Raises:
            Unavailable: The device is broken or closed.
        """
        if self._refusal is not None:
            raise Unavailable(self._refusal, "retry; another replica may answer")

    async def probe(self, timeout_s: float) -> None:
        """Send a tiny operation through the thread and the device.

        It queues behind the work that is there, so `timeout_s` must exceed the longest step.

        Raises:
            Unavailable: The device is broken or closed, or did not answer in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.run(self._touch)
        except TimeoutError:
            raise Unavailable(f"the device did not answer within {timeout_s:g} s") from None

    async def aclose(self) -> None:
        """Refuse new work, fail what has not started with Unavailable, and wait for the work that has."""
        if self._refusal is None:
            self._refusal = "the device is shutting down"
        self._jobs.put(None)
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._execute(job)
            del job  # an idle thread must not keep the last tensors alive
        self._ended.set_result(None)

    def _execute(self, job: _Job) -> None:
        started_s = self._clock.monotonic()
        try:
            self._metrics.observe(DEVICE_WAIT, started_s - job.asked_s)
            try:
                result = self._attempt(job.work)
            finally:
                self._metrics.count(DEVICE_BUSY, self._clock.monotonic() - started_s)
        except BaseException as error:  # the caller's, whatever it is
            job.future.set_exception(error)
            del job  # or the error's own traceback would hold the future that holds the error
        else:
            job.future.set_result(result)

    def _attempt(self, work: Callable[[], object]) -> object:
        self.check()
        try:
            return work()
        except StopIteration as stop:
            raise RuntimeError("device work raised StopIteration") from stop  # a future cannot carry it
        except Exception as error:
            diagnosis = diagnose(error)
            if diagnosis is None:
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        # Outside the handler: only now are the failed call's frames, and the tensors in them, gone.
        self._metrics.count(DEVICE_ERRORS, kind=diagnosis)
        if diagnosis == "fatal":
            self._refusal = f"the device failed and this process must be replaced ({reason})"
            self.check()
        self._empty_cache()
        raise Unavailable("the device ran out of memory", "retry with shorter prompts, fewer sources or fewer results")

    def _touch(self) -> None:
        if self._device != "cpu":
            import torch

            torch.ones(1, device=self._device).add_(1).item()  # `item` waits for the device

    def _empty_cache(self) -> None:
        gc.collect()  # tensors in reference cycles
        if self._device != "cpu":
            import torch

            (torch.cuda if self._device.startswith("cuda") else torch.mps).empty_cache()
