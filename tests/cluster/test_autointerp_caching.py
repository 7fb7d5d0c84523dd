"""A caching job on a cluster comes to the bytes of one in a process, whatever happens to its workers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._common.test_utils import wait_for_condition

from cluster.autointerp_caching_arguments import CachingWorkerArgs
from core.autointerp.caching import job
from core.autointerp.caching.corpus import FileTexts
from core.autointerp.caching.job import cache_activations
from core.autointerp.caching.manifest import FILE_NAME, Manifest
from core.autointerp.caching.progress import CachingProgress
from core.autointerp.caching.recording import RecordingLimits
from core.errors import InvalidRequest, TooLarge, Unavailable
from tests.ray_testing import ray_instance
from tests.unit.autointerp.caching.conftest import CONTEXT, demo_spec

CPUS = 4
_PATIENCE_S = 120
WORKERS = CachingWorkerArgs(min_workers=2, max_workers=2, num_cpus=1, threads=1, reader_cpus=0.5)
ONE = CachingWorkerArgs(num_cpus=1, threads=1, reader_cpus=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_instance(num_cpus=CPUS):
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    import torch

    folder = tmp_path_factory.mktemp("reference")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cache_activations(demo_spec(folder))
    torch.set_num_threads(threads)
    return bytes_of(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cached(*args: Any, **options: Any) -> Any:
    from deployments.autointerp.caching import cache_activations_on_cluster

    return cache_activations_on_cluster(*args, **options)


def worker_ids(title: str = "MapWorker") -> set[int]:
    """Process ids of the workers, or of others of this Ray by their title."""
    found: set[int] = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def all_is_free() -> bool:
    return ray.available_resources().get("CPU") == CPUS and not worker_ids()


def test_the_bytes_are_those_of_one_process_and_the_driver_reads_no_text(
    cluster: None, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "documents", lambda _: pytest.fail("the driver read a text"))
    seen: list[CachingProgress] = []
    workers: set[int] = set()
    result = cached(demo_spec(tmp_path), lambda at: workers.update(worker_ids()) or seen.append(at), workers=WORKERS)
    assert bytes_of(tmp_path) == reference
    assert result.windows == 40
    recording = [at for at in seen if at.stage == "recording"]
    assert [at.done for at in recording] == [8, 16, 24, 32, 40]
    assert all(at.tokens_per_s and at.eta_s is not None for at in recording)
    assert seen[-1].done == seen[-1].of == 2048
    assert len(workers) >= 2  # the parts were not all one task
    wait_for_condition(all_is_free, timeout=_PATIENCE_S)


def test_a_finished_job_is_known_and_changes_nothing(
    cluster: None, reference: dict[str, bytes], tmp_path: Path
) -> None:
    cache_activations(demo_spec(tmp_path))
    before = bytes_of(tmp_path)
    seen: list[CachingProgress] = []
    assert cached(demo_spec(tmp_path), seen.append, workers=ONE).windows == 40
    assert bytes_of(tmp_path) == before
    assert (seen[0].stage, seen[0].done) == ("recording", 40)


def test_what_was_lost_is_made_again_and_nothing_is_distilled_before(
    cluster: None, reference: dict[str, bytes], tmp_path: Path
) -> None:
    cache_activations(demo_spec(tmp_path))
    (tmp_path / "records/1-res-demo/part-00004.safetensors").unlink()
    (tmp_path / "reservoirs/1-res-demo/400-800.safetensors").unlink()
    seen: list[CachingProgress] = []
    cached(demo_spec(tmp_path), seen.append, workers=ONE)
    assert [(at.stage, at.done) for at in seen] == [
        ("recording", 32),
        ("distilling", 1648),
        ("recording", 40),
        ("distilling", 2048),
    ]
    assert bytes_of(tmp_path) == reference


def test_whoever_is_killed_costs_a_retry_and_not_the_job(
    cluster: None, reference: dict[str, bytes], tmp_path: Path
) -> None:
    victims = [("recording", "MapWorker"), ("recording", "ReadCachingWork"), ("distilling", "MapWorker")]

    def kill(at: CachingProgress) -> None:
        if victims and victims[0][0] == at.stage and at.done < at.of:
            os.kill(min(worker_ids(victims.pop(0)[1])), signal.SIGKILL)

    cached(demo_spec(tmp_path), kill, workers=ONE)
    assert not victims
    assert bytes_of(tmp_path) == reference


def test_workers_that_keep_dying_end_the_job_which_can_be_gone_on_with(
    cluster: None, reference: dict[str, bytes], tmp_path: Path
) -> None:
    def kill(_: CachingProgress) -> None:
        for worker in worker_ids():
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(Unavailable, match="workers of the caching job failed"):
        cached(demo_spec(tmp_path), kill, workers=ONE.model_copy(update={"retries": 0}))
    wait_for_condition(all_is_free, timeout=_PATIENCE_S)
    assert 0 < len(Manifest.read(tmp_path).units("part")) < 5
    cached(demo_spec(tmp_path), workers=ONE)
    assert bytes_of(tmp_path) == reference


def test_a_report_that_raises_stops_the_job_and_frees_its_workers(
    cluster: None, reference: dict[str, bytes], tmp_path: Path
) -> None:
    class Cancelled(Exception):
        pass

    def cancel(at: CachingProgress) -> None:
        if at.done >= 16:
            raise Cancelled

    with pytest.raises(Cancelled):
        cached(demo_spec(tmp_path), cancel, workers=WORKERS)
    wait_for_condition(all_is_free, timeout=_PATIENCE_S)
    assert len(Manifest.read(tmp_path).units("part")) == 2
    cached(demo_spec(tmp_path), workers=ONE)
    assert bytes_of(tmp_path) == reference


def test_errors_of_readers_and_workers_keep_their_types(cluster: None, tmp_path: Path) -> None:
    missing = demo_spec(tmp_path / "a", texts=FileTexts((str(tmp_path / "none.txt"),)))
    with pytest.raises(InvalidRequest, match=r"no file 'none.txt'"):
        cached(missing, workers=ONE)
    with pytest.raises(TooLarge):
        cached(demo_spec(tmp_path / "b", limits=RecordingLimits(max_records=10)), workers=ONE)
    assert list(bytes_of(tmp_path / "b")) == [FILE_NAME]
    text = tmp_path / "text.txt"
    text.write_text("The dog runs into the house. " * 200)
    spec = demo_spec(tmp_path / "c", texts=FileTexts((str(text),)), n_tokens=16 * CONTEXT)
    cached(spec, workers=ONE)
    text.write_text("The cat runs into the house. " * 200)
    with pytest.raises(InvalidRequest, match="changed since part 0"):
        cached(spec, workers=ONE)
    with pytest.raises(InvalidRequest, match="reserve none"):
        cached(demo_spec(tmp_path / "d", device="cuda"), workers=ONE)
    wait_for_condition(all_is_free, timeout=_PATIENCE_S)
