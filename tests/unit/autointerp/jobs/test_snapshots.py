"""Copies of the jobs' file in a real S3 server: made when something has changed, and found when the disk is gone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.snapshots import Snapshots
from core.autointerp.jobs.store import JobStore
from core.errors import Unavailable
from tests.s3_server import s3_bucket
from tests.unit.autointerp.jobs.scripted_jobs import Desk, ScriptedWorkers, in_a_loop, job_spec

PLACE = "s3://jobs-bucket/some/folder"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with s3_bucket("jobs-bucket") as bucket:
        yield bucket


def test_a_host_without_its_disk_goes_on_from_the_last_copy(bucket: Any, tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    job_id = other = ""

    @in_a_loop
    async def before() -> None:
        nonlocal job_id, other
        workers = ScriptedWorkers(lambda task: None)
        snapshots = Snapshots(PLACE)
        async with Desk(path, workers) as desk:
            job_id = (await desk.control.submit(job_spec(3))).job.id
            await desk.until(job_id, "succeeded")
            assert await snapshots.store(desk.file)
            assert not await snapshots.store(desk.file)  # nothing has changed
            other = (await desk.control.submit(job_spec(2, sources=("9-other",)))).job.id
            await desk.until(other, "succeeded")
            assert await snapshots.store(desk.file)

    @in_a_loop
    async def afterwards() -> None:
        async with Desk(path, ScriptedWorkers()) as desk:
            assert len(desk.results(job_id)) == 9
            assert len(desk.results(other)) == 6

    before()
    for file in tmp_path.iterdir():
        file.unlink()
    assert Snapshots(PLACE).restore(path)
    afterwards()


def test_a_file_that_is_there_is_left_alone(bucket: Any, tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    file = JobFile(path)
    job, _ = JobStore(file).submit(job_spec())
    assert not Snapshots(PLACE).restore(path)
    assert JobStore(file).job(job.id)
    file.close()


def test_where_nothing_was_stored_there_is_nothing_to_restore(bucket: Any, tmp_path: Path) -> None:
    assert not Snapshots("s3://jobs-bucket/nobody").restore(tmp_path / "jobs.sqlite")
    assert not (tmp_path / "jobs.sqlite").exists()


def test_a_store_that_can_not_be_read_is_an_error_and_no_empty_start(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("core.autointerp.jobs.snapshots._ATTEMPTS", 1)
    with pytest.raises(Unavailable):
        Snapshots(PLACE).restore(tmp_path / "jobs.sqlite")


def test_a_store_that_is_down_costs_no_job(bucket: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = JobFile(tmp_path / "jobs.sqlite")
    asyncio.run(Snapshots("s3://no-such-bucket/x").aclose(file))
    assert "could not be copied" in caplog.text
    file.close()


@pytest.mark.parametrize("wrong", ["http://bucket/x", "s3://", "/a/folder"])
def test_what_is_no_place_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        Snapshots(wrong)
