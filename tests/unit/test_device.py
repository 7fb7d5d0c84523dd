"""Promises of `core.device`."""

import asyncio
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from core.device import DeviceExecutor, diagnose, limit_memory, resolve_device
from core.errors import NotFound, Unavailable
from core.metrics import DEVICE_BUSY, DEVICE_ERRORS, DEVICE_WAIT, Counter, Gauge, Histogram

pytestmark = pytest.mark.anyio

PATIENCE_S = 10.0
FATAL = "CUDA error: device-side assert triggered"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def executor() -> AsyncIterator[DeviceExecutor]:
    executor = DeviceExecutor()
    yield executor
    await executor.aclose()


class Work:
    """A piece of device work that starts and ends when the test says so."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.finish = threading.Event()
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.started.set()
        assert self.finish.wait(PATIENCE_S)
        return "done"

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, PATIENCE_S)


class Recorder:
    def __init__(self) -> None:
        self.samples: list[tuple[str, float, dict[str, str]]] = []

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        self.samples.append((metric.name, amount, tags))

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        self.samples.append((metric.name, value, tags))

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        self.samples.append((metric.name, value, tags))


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


async def test_work_runs_on_one_thread_of_its_own_and_returns(executor: DeviceExecutor) -> None:
    threads = {await executor.run(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert await executor.run(int, "ff", base=16) == 255


async def test_no_two_pieces_of_work_ever_overlap(executor: DeviceExecutor) -> None:
    inside = 0
    overlaps = 0

    def work() -> None:
        nonlocal inside, overlaps
        inside += 1
        overlaps += inside > 1
        time.sleep(0)  # let any other thread in
        inside -= 1

    await asyncio.gather(*(executor.run(work) for _ in range(300)))
    assert overlaps == 0


async def test_work_runs_in_the_order_of_asking(executor: DeviceExecutor) -> None:
    order: list[int] = []
    await asyncio.gather(*(executor.run(order.append, i) for i in range(100)))
    assert order == list(range(100))


async def test_work_cancelled_before_its_turn_never_starts(executor: DeviceExecutor) -> None:
    first, second = Work(), Work()
    running = asyncio.create_task(executor.run(first))
    await first.has_started()
    waiting = asyncio.create_task(executor.run(second))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.finish.set()
    assert await running == "done"
    await executor.run(lambda: None)
    assert second.calls == 0


async def test_work_cancelled_after_its_start_keeps_the_device_until_it_ends(executor: DeviceExecutor) -> None:
    first, second = Work(), Work()
    second.finish.set()
    abandoned = asyncio.create_task(executor.run(first))
    await first.has_started()
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    following = asyncio.create_task(executor.run(second))
    await asyncio.sleep(0)
    assert not second.started.wait(0.05)
    first.finish.set()
    assert await following == "done"


async def test_an_ordinary_error_is_the_callers_and_the_device_goes_on(executor: DeviceExecutor) -> None:
    with pytest.raises(NotFound, match="no such feature"):
        await executor.run(raising(NotFound("no such feature")))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await executor.run(raising(StopIteration("end")))
    with pytest.raises(SystemExit):
        await executor.run(raising(SystemExit(3)))
    assert await executor.run(lambda: 1) == 1


async def test_a_fatal_error_breaks_the_device_for_everybody_after_it(executor: DeviceExecutor) -> None:
    first, queued = Work(), Work()
    queued.finish.set()

    def dies() -> None:
        first()
        raise RuntimeError(FATAL + "\nCompile with TORCH_USE_CUDA_DSA")

    executor.check()
    dying = asyncio.create_task(executor.run(dies))
    await first.has_started()
    behind = asyncio.create_task(executor.run(queued))
    await asyncio.sleep(0)
    first.finish.set()
    with pytest.raises(Unavailable, match="device-side assert triggered") as caught:
        await dying
    assert "TORCH_USE_CUDA_DSA" not in caught.value.message
    for call in (behind, executor.run(queued), executor.probe(PATIENCE_S)):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        executor.check()
    assert queued.calls == 0


async def test_a_fatal_error_is_noticed_even_when_its_caller_has_left(executor: DeviceExecutor) -> None:
    work = Work()

    def dies() -> None:
        work()
        raise RuntimeError(FATAL)

    abandoned = asyncio.create_task(executor.run(dies))
    await work.has_started()
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    work.finish.set()
    with pytest.raises(Unavailable):
        await executor.run(lambda: None)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: uncorrectable ECC error encountered",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "CUDA error: an illegal instruction was encountered",
        "an illegal instruction was encountered",
        "CUDA assertion failed",
        "cudaMalloc: out of memory",
    ],
)
def test_every_sticky_state_is_fatal(text: str) -> None:
    assert diagnose(RuntimeError(text)) == "fatal"


def test_a_wrapped_fatal_error_is_fatal() -> None:
    wrapped = ValueError("hook failed")
    wrapped.__cause__ = RuntimeError(FATAL)
    assert diagnose(wrapped) == "fatal"


def test_what_a_client_wrote_cannot_break_the_device() -> None:
    assert diagnose(NotFound("no source 'illegal memory access'")) is None
    assert diagnose(KeyError("cuda error")) is None


def test_running_out_of_memory_is_told_by_type_not_by_text() -> None:
    import torch

    exhausted = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert diagnose(exhausted) == "out_of_memory"
    assert diagnose(torch.cuda.OutOfMemoryError("CUDA error: out of memory")) == "out_of_memory"
    wrapped = RuntimeError("out of memory while encoding")
    wrapped.__cause__ = exhausted
    assert diagnose(wrapped) == "out_of_memory"
    assert diagnose(MemoryError()) == "out_of_memory"
    assert diagnose(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")) == "out_of_memory"
    assert diagnose(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")) == "out_of_memory"


def test_a_circular_chain_of_errors_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert diagnose(one) is None


async def test_running_out_of_memory_leaves_the_device_usable(executor: DeviceExecutor) -> None:
    with pytest.raises(Unavailable, match="out of memory") as caught:
        await executor.run(raising(MemoryError()))
    assert caught.value.hint is not None
    assert "shorter prompts" in caught.value.hint
    executor.check()
    assert await executor.run(lambda: 1) == 1


async def test_the_cache_is_emptied_after_the_failed_work_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Tensor:
        pass

    alive: list[weakref.ref[Tensor]] = []
    when_emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: when_emptied.append(alive[0]() is not None))

    def exhausts() -> None:
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    executor = DeviceExecutor("cuda")
    with pytest.raises(Unavailable):
        await executor.run(exhausts)
    assert when_emptied == [False]
    await executor.aclose()


async def test_an_idle_thread_keeps_no_result_alive(executor: DeviceExecutor) -> None:
    class Tensor:
        pass

    dropped = threading.Event()
    weakref.finalize(await executor.run(Tensor), dropped.set)
    assert await asyncio.to_thread(dropped.wait, PATIENCE_S)


async def test_a_probe_goes_through_the_thread(executor: DeviceExecutor) -> None:
    await executor.probe(PATIENCE_S)
    work = Work()
    running = asyncio.create_task(executor.run(work))
    await work.has_started()
    with pytest.raises(Unavailable, match="did not answer within"):
        await executor.probe(0.01)
    work.finish.set()
    await running
    await executor.probe(PATIENCE_S)


async def test_closing_finishes_what_runs_and_fails_what_waits() -> None:
    executor = DeviceExecutor()
    running, queued = Work(), Work()
    first = asyncio.create_task(executor.run(running))
    await running.has_started()
    second = asyncio.create_task(executor.run(queued))
    await asyncio.sleep(0)
    closing = asyncio.create_task(executor.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    running.finish.set()
    await closing
    assert await first == "done"
    with pytest.raises(Unavailable, match="shutting down"):
        await second
    with pytest.raises(Unavailable):
        await executor.run(queued)
    assert queued.calls == 0
    await executor.aclose()


async def test_the_device_measures_waiting_work_and_failures() -> None:
    recorder = Recorder()
    executor = DeviceExecutor(metrics=recorder)
    await executor.run(lambda: None)
    for error in (MemoryError(), RuntimeError(FATAL)):
        with pytest.raises(Unavailable):
            await executor.run(raising(error))
    await executor.aclose()
    names = [name for name, _, _ in recorder.samples]
    assert names.count(DEVICE_WAIT.name) == names.count(DEVICE_BUSY.name) == 3
    kinds = [tags for name, _, tags in recorder.samples if name == DEVICE_ERRORS.name]
    assert kinds == [{"kind": "out_of_memory"}, {"kind": "fatal"}]


async def test_a_sink_that_fails_does_not_kill_the_thread() -> None:
    class Broken(Recorder):
        def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
            raise ValueError("sink")

    executor = DeviceExecutor(metrics=Broken())
    for _ in range(2):
        with pytest.raises(ValueError, match="sink"):
            await executor.run(lambda: None)
    await executor.aclose()


def test_auto_takes_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def present(cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    present(cuda=True, mps=True)
    assert resolve_device("auto") == "cuda"
    present(cuda=False, mps=True)
    assert resolve_device("auto") == "mps"
    with pytest.raises(Unavailable, match="cuda"):
        resolve_device("cuda")
    present(cuda=False, mps=False)
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="tpu"):
        resolve_device("tpu")  # pyright: ignore[reportArgumentType]


def test_the_memory_limit_reaches_cuda_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    limit_memory(0.25, "cpu")
    assert limits == []
    limit_memory(0.25, "cuda:0")
    assert limits == [0.25]
    for fraction in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            limit_memory(fraction, "cuda")


def test_importing_the_device_does_not_import_torch() -> None:
    program = "import sys, core.device, core.batching, core.residency; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
