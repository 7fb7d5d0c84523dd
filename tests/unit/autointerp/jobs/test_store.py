"""The job store: what is kept, what counts, and that neither a crash nor a second worker does anything thrice."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from core.autointerp.jobs.choices import Step
from core.autointerp.jobs.history import History
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.store import JobStore, Request
from core.autointerp.jobs.units import ATTEMPTS, Done, Failed, GivenBack, Job, Skipped, Unit
from core.autointerp.providers.ledger import Budget
from core.errors import Conflict, NotFound, Unavailable
from tests.unit.autointerp.jobs.scripted_jobs import SOURCE, USAGE, job_spec

TTL_S = 60.0
EXPLANATION = {"text": "cats", "status": "ok"}


class HeldClock:
    """Stands still until it is set."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Iterator[JobFile]:
    file = JobFile(tmp_path / "jobs.sqlite")
    yield file
    file.close()


@pytest.fixture
def store(file: JobFile) -> JobStore:
    store = JobStore(file, HeldClock())
    store.claim()
    return store


def running(store: JobStore, n_latents: int = 2, **changes: object) -> str:
    job_id = store.submit(job_spec(n_latents, **changes))[0].id
    store.move(job_id, "running", ("queued",), "progress")
    store.plan(job_id, {SOURCE: range(n_latents)})
    return job_id


def done(unit: Unit) -> Done:
    return Done(unit, EXPLANATION | {"stage": str(unit.stage)}, USAGE)


def work_off(store: JobStore, job_id: str) -> None:
    while units := store.lease(job_id, 100, TTL_S):
        store.settle([done(unit) for unit in units])


def test_a_job_is_done_when_all_its_units_are(store: JobStore) -> None:
    job_id = running(store)
    assert store.job(job_id).counts.total == 6
    work_off(store, job_id)
    job = store.job(job_id)
    assert (job.status, job.counts.done, job.ended_s) == ("succeeded", 6, 1000.0)
    assert (job.usage.calls, job.usage.prompt_tokens, job.usage.cost_usd) == (6, 60, pytest.approx(0.006))
    results = list(History(store.file).all_results(job_id))
    names = [(result.latent.index, str(result.stage)) for result in results]
    stages = ("explain/default", "score/default/detection", "score/-/intruder")
    assert sorted(names) == sorted((latent, stage) for latent in range(2) for stage in stages)
    events = History(store.file).events(job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert Counter(event.kind for event in events) == {"progress": 2, "explanation": 2, "score": 4, "done": 1}
    assert events[-1].kind == "done"
    assert all(event.result is not None for event in events if event.kind in ("explanation", "score"))


def test_an_explanation_is_scored_once_it_is_there(store: JobStore) -> None:
    job_id = running(store, 1)
    first = store.lease(job_id, 10, TTL_S)
    assert [str(unit.stage) for unit in first] == ["explain/default", "score/-/intruder"]
    assert store.lease(job_id, 10, TTL_S) == []
    store.settle([done(first[0])])
    (scoring,) = store.lease(job_id, 10, TTL_S)
    assert str(scoring.stage) == "score/default/detection"
    assert scoring.needs is not None
    assert History(store.file).explanations(job_id, [scoring.needs]) == {first[0].number: "cats"}


def test_what_reads_an_explanation_that_was_not_made_is_skipped_and_comes_back_with_it(store: JobStore) -> None:
    job_id = running(store, 1)
    explaining, other = store.lease(job_id, 10, TTL_S)
    store.settle([Failed(explaining, "provider_failed", "no answer", retryable=True), done(other)])
    job = store.job(job_id)
    assert (job.status, job.counts.failed, job.counts.skipped, job.counts.done) == ("succeeded", 1, 1, 1)
    assert store.retry(job_id) == 2
    store.move(job_id, "running", ("succeeded",), "progress")
    assert store.job(job_id).counts.ended == 1
    work_off(store, job_id)
    assert store.job(job_id).counts.done == 3
    assert len(list(History(store.file).all_results(job_id))) == 3


def test_what_can_not_succeed_is_not_tried_again(store: JobStore) -> None:
    job_id = running(store, 1, scorers=(Step("detection"),))
    (explaining,) = store.lease(job_id, 10, TTL_S)
    store.settle([Failed(explaining, "parse_failed", "unreadable", retryable=False)])
    assert store.job(job_id).status == "failed"
    assert store.retry(job_id) == 0


def test_another_latents_explanation_is_scored_when_all_are_there(store: JobStore) -> None:
    job_id = running(store, 2, scorers=(Step("detection"),), baselines=("random-explanation",))
    first = store.lease(job_id, 10, TTL_S)
    store.settle([done(first[0])])
    (scoring,) = store.lease(job_id, 10, TTL_S)
    assert not scoring.stage.random
    store.settle([Skipped(first[1], "no_examples", "never fires")])
    assert sorted(unit.latent for unit in store.lease(job_id, 10, TTL_S) if unit.stage.random) == [0, 1]


def test_a_unit_whose_worker_died_is_given_out_once_more_and_then_fails(file: JobFile) -> None:
    first = JobStore(file, HeldClock())
    first.claim()
    job_id = running(first, 1, scorers=())
    for attempt in range(1, ATTEMPTS + 1):
        store = JobStore(file, HeldClock())
        store.claim()
        assert [unit.attempt for unit in store.lease(job_id, 10, TTL_S)] == [attempt]
    last = JobStore(file, HeldClock())
    last.claim()
    assert last.lease(job_id, 10, TTL_S) == []
    (result,) = History(file).results(job_id)
    assert (result.state, result.code, result.attempts) == ("failed", "abandoned", ATTEMPTS)
    assert last.retry(job_id) == 1


def test_whoever_was_taken_over_from_can_neither_lease_nor_settle(file: JobFile, store: JobStore) -> None:
    job_id = running(store, 1)
    (unit, _) = store.lease(job_id, 10, TTL_S)
    other = JobStore(file, HeldClock())
    other.claim()
    for act in (lambda: store.lease(job_id, 1, TTL_S), lambda: store.settle([done(unit)])):
        with pytest.raises(Unavailable):
            act()
    assert other.job(job_id).counts.done == 0
    assert other.settle([done(unit)]) == []  # the attempt that was given back does not count


def test_a_lease_that_ran_out_is_given_to_the_next(file: JobFile) -> None:
    clock = HeldClock()
    store = JobStore(file, clock)
    store.claim()
    job_id = running(store, 1, scorers=())
    (late,) = store.lease(job_id, 10, TTL_S)
    clock.now_s += TTL_S + 1
    (again,) = store.lease(job_id, 10, TTL_S)
    assert again.attempt == late.attempt + 1
    assert store.settle([done(late)]) == []
    assert len(store.settle([done(again)])) == 1


def test_what_is_given_back_untried_is_no_attempt(store: JobStore) -> None:
    job_id = running(store, 1, scorers=())
    for _ in range(3):
        (unit,) = store.lease(job_id, 10, TTL_S)
        assert unit.attempt == 1
        store.settle([GivenBack(unit)])
    (unit,) = store.lease(job_id, 10, TTL_S)
    store.settle([GivenBack(unit, counted=True)])
    assert [unit.attempt for unit in store.lease(job_id, 10, TTL_S)] == [2]


def test_the_same_request_under_the_same_key_is_the_same_job(store: JobStore) -> None:
    request = Request("alice", "key", "digest")
    job, new = store.submit(job_spec(), request)
    assert new
    assert store.submit(job_spec(), request) == (job, False)
    with pytest.raises(Conflict):
        store.submit(job_spec(), Request("alice", "key", "another digest"))
    assert store.submit(job_spec(), Request("bob", "key", "another digest"))[1]
    assert store.submit(job_spec())[1]
    assert store.submit(job_spec())[1]


def test_a_job_that_does_not_stand_so_is_not_moved(store: JobStore) -> None:
    job_id = running(store)
    with pytest.raises(Conflict):
        store.move(job_id, "queued", ("paused",), "progress")
    with pytest.raises(NotFound):
        store.move("nobody", "queued", ("paused",), "progress")
    assert store.lease(job_id, 1, TTL_S)
    store.move(job_id, "paused", ("running",), "progress")
    assert store.lease(job_id, 1, TTL_S) == []


def test_a_budget_can_be_raised(store: JobStore) -> None:
    job_id = running(store)
    store.amend(job_id, lambda spec: replace(spec, budget=Budget(usd=3.0), priority=7))
    assert store.job(job_id).spec.budget.usd == 3.0
    assert store.active()[0].spec.priority == 7
    assert History(store.file).events(job_id)[-1].kind == "budget"


def test_jobs_are_listed_newest_first_and_deleted_without_a_trace(store: JobStore) -> None:
    jobs = [running(store) for _ in range(3)]
    assert [job.id for job in store.jobs()] == jobs[::-1]
    assert [job.id for job in store.jobs(1, before=jobs[2])] == [jobs[1]]
    work_off(store, jobs[1])
    store.delete(jobs[1])
    with pytest.raises(NotFound):
        store.job(jobs[1])
    left = store.file.read("SELECT count(*) AS n FROM units UNION ALL SELECT count(*) FROM results")
    assert [row["n"] for row in left] == [12, 0]


def test_jobs_with_a_higher_priority_come_first_then_the_older(store: JobStore) -> None:
    low, high, other = (running(store, priority=priority) for priority in (0, 5, 0))
    assert [job.id for job in store.active()] == [high, low, other]


def test_a_copy_of_the_file_is_whole(store: JobStore, tmp_path: Path) -> None:
    job_id = running(store)
    work_off(store, job_id)
    store.file.copy_to(tmp_path / "copy.sqlite")
    copy = JobFile(tmp_path / "copy.sqlite")
    assert JobStore(copy).job(job_id) == store.job(job_id)
    copy.close()


class Leasing(RuleBasedStateMachine):
    """Any order of leasing, settling, dying and resuming, against what must hold at all times."""

    @initialize(n_latents=integers(1, 3), baseline=booleans())
    def begin(self, n_latents: int, baseline: bool) -> None:
        self.folder = TemporaryDirectory(prefix="jobs-")
        self.file = JobFile(Path(self.folder.name) / "jobs.sqlite")
        self._take_over()
        self.job_id = running(self.store, n_latents, baselines=("random-explanation",) if baseline else ())
        self.leased: list[Unit] = []
        self.given_out: Counter[int] = Counter()

    def _take_over(self) -> None:
        self.store = JobStore(self.file, HeldClock())
        self.store.claim()

    @rule(count=integers(1, 4))
    def lease(self, count: int) -> None:
        units = self.store.lease(self.job_id, count, TTL_S)
        for unit in units:
            assert unit.number not in {other.number for other in self.leased}
            self.given_out[unit.number] += 1
            assert self.given_out[unit.number] <= ATTEMPTS
        self.leased += units

    @precondition(lambda self: self.leased)
    @rule(how=sampled_from(("done", "failed", "skipped", "given back", "lost")), which=integers(0, 100))
    def settle(self, how: str, which: int) -> None:
        unit = self.leased.pop(which % len(self.leased))
        outcome = {
            "done": done(unit),
            "failed": Failed(unit, "provider_failed", "no answer", retryable=True),
            "skipped": Skipped(unit, "no_examples", "never fires"),
            "given back": GivenBack(unit),
            "lost": GivenBack(unit, counted=True),
        }[how]
        assert self.store.settle([outcome, outcome]) == [outcome]  # twice is once
        if how == "given back":
            self.given_out[unit.number] -= 1

    @rule()
    def die(self) -> None:
        before = self.store
        self._take_over()
        if self.leased:
            with pytest.raises(Unavailable):
                before.settle([done(self.leased[0])])
            assert self.store.settle([done(self.leased[0])]) == []
        self.leased = []

    @precondition(lambda self: self.store.job(self.job_id).status in ("failed", "succeeded"))
    @rule()
    def resume(self) -> None:
        if self.store.retry(self.job_id):
            self.store.move(self.job_id, "running", ("failed", "succeeded"), "progress")
            for row in self._rows():
                if row["state"] == "pending":
                    self.given_out[row["number"]] = 0

    @invariant()
    def what_is_told_is_what_is(self) -> None:
        job: Job = self.store.job(self.job_id)
        states = Counter(row["state"] for row in self._rows())
        assert (job.counts.done, job.counts.failed, job.counts.skipped) == (
            states["done"],
            states["failed"],
            states["skipped"],
        )
        assert states["leased"] == len(self.leased)
        results = list(History(self.file).all_results(self.job_id))
        assert len(results) == job.counts.ended
        assert (job.status != "running") == (job.counts.ended == job.counts.total)
        events = History(self.file).events(self.job_id)
        assert [event.number for event in events] == list(range(1, job.last_event + 1))
        unready = [row for row in self._rows() if row["state"] == "pending" and not row["ready"]]
        assert not unready or any(row["explains"] and row["state"] in ("pending", "leased") for row in self._rows())

    def _rows(self) -> list[sqlite3.Row]:
        return self.file.read("SELECT * FROM units")

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()


Leasing.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLeasing = Leasing.TestCase
