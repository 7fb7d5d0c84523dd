"""The driver over scripted workers: what it begins, how it stops, and what it goes on with."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.autointerp.jobs.choices import AskedModel, LatentChoice, Step
from core.autointerp.jobs.control import JobChange
from core.autointerp.jobs.driver import DriverLimits
from core.autointerp.jobs.units import Spent
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Budget
from core.clock import SYSTEM_CLOCK
from core.errors import (
    BudgetReached,
    Conflict,
    ModelNotFound,
    NotFound,
    Overloaded,
    ProviderAuth,
    ProviderCredits,
    ProviderFailed,
    RayscopeError,
    Refused,
    Unavailable,
)
from tests.unit.autointerp.jobs.scripted_jobs import Desk, ScriptedFeatures, ScriptedWorkers, in_a_loop, job_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@in_a_loop
async def test_every_unit_is_done_once_and_scores_read_their_own_explanation(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(5))).job.id
        job = await desk.until(job_id, "succeeded")
        assert job.counts.done == job.counts.total == 15
        assert set(workers.asked.values()) == {1}
        assert workers.explanations["detection 3"] == "cats, kind 3"
        assert workers.explanations["intruder 3"] == ""
        results = desk.results(job_id)
        explained = results[(2, "explain/default")].result
        scored = results[(2, "score/default/detection")].result
        assert explained is not None and explained["text"] == "cats, kind 2"
        assert scored is not None and (scored["value"], scored["metric"]) == (0.75, "balanced_accuracy")


@in_a_loop
async def test_whose_account_pays_is_the_jobs(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(1, budget=Budget(usd=2.0), force=True))).job.id
        await desk.until(job_id, "succeeded")
    for payer in workers.payers:
        assert payer.owner == f"job/{job_id}"
        assert [(account.name, account.budget.usd) for account in payer.accounts] == [(f"job/{job_id}", 2.0)]
        assert payer.force


@in_a_loop
async def test_no_more_units_are_in_progress_than_the_job_allows(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(20, concurrency=7))).job.id
        await workers.until(lambda: workers.in_flight == 7)
        await desk.control.amend(job_id, JobChange(concurrency=9))
        await workers.until(lambda: workers.in_flight == 9)
        workers.open.set()
        await desk.until(job_id, "succeeded")
    assert workers.peak == 9


@in_a_loop
async def test_a_job_with_a_higher_priority_goes_first(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers, limits=DriverLimits(in_flight=2)) as desk:
        low = (await desk.control.submit(job_spec(200, scorers=(), sources=("1-low",)))).job.id
        await workers.until(lambda: workers.in_flight == 2)
        high = (await desk.control.submit(job_spec(4, scorers=(), sources=("1-high",), priority=5))).job.id
        workers.open.set()
        await desk.until(high, "succeeded")
        await desk.until(low, "succeeded")
    first = workers.order.index("explain 1-high/0")
    assert workers.order[first : first + 4] == [f"explain 1-high/{latent}" for latent in range(4)]
    assert any("low" in what for what in workers.order[first + 4 :])


@in_a_loop
async def test_two_jobs_of_one_priority_take_turns(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers, limits=DriverLimits(in_flight=1)) as desk:
        one = (await desk.control.submit(job_spec(4, scorers=(), sources=("1-one",)))).job.id
        two = (await desk.control.submit(job_spec(4, scorers=(), sources=("1-two",)))).job.id
        await desk.until(one, "succeeded")
        await desk.until(two, "succeeded")
    places = [what.split("/")[0] for what in workers.order]
    assert "explain 1-two" in places[:4]
    assert places.count("explain 1-one") == places.count("explain 1-two") == 4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BudgetReached("job/x has $0.00 left", "Raise the budget."), "paused_budget"),
        (ProviderCredits("no credit"), "paused_credits"),
        (ProviderAuth("bad key"), "paused_credits"),
    ],
)
@in_a_loop
async def test_money_pauses_a_job_and_costs_no_attempt(path: Path, error: RayscopeError, status: str) -> None:
    poor = True
    workers = ScriptedWorkers(lambda task: error if poor and task.type == "detection" else None)
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(3))).job.id
        job = await desk.until(job_id, status)
        assert job.reason is not None and error.message in job.reason
        await desk.control.amend(job_id, JobChange(usd=5.0))
        poor = False
        await desk.control.resume(job_id)
        job = await desk.until(job_id, "succeeded")
        assert (job.counts.done, job.counts.failed, job.counts.skipped) == (9, 0, 0)
        assert {result.attempts for result in desk.results(job_id).values()} == {1}


@in_a_loop
async def test_a_unit_that_ran_out_of_budget_beside_others_is_tried_alone_before_the_job_pauses(path: Path) -> None:
    refused = BudgetReached("the others have set aside what is left", "Raise the budget.")
    ends = [None, refused, refused, refused]
    workers = ScriptedWorkers(lambda _: ends.pop(0) if ends else None)
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(4, scorers=(), concurrency=4))).job.id
        await workers.until(lambda: workers.in_flight == 4)
        workers.open.set()
        await desk.until(job_id, "succeeded")
    assert workers.asked.total() == 7


@in_a_loop
async def test_a_replica_that_died_costs_a_second_attempt_and_never_a_third(path: Path) -> None:
    workers = ScriptedWorkers(lambda task: Unavailable("it died") if task.record.name.index == 1 else None)
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(2, scorers=()))).job.id
        job = await desk.until(job_id, "succeeded")
        assert (job.counts.done, job.counts.failed) == (1, 1)
        assert workers.asked == {"explain 3-res/0": 1, "explain 3-res/1": 2}
        failed = desk.results(job_id)[(1, "explain/default")]
        assert (failed.code, failed.attempts) == ("unavailable", 2)


@in_a_loop
async def test_what_nobody_had_room_for_is_asked_again_and_is_no_attempt(path: Path) -> None:
    left = [Overloaded("all queues are full", None, 0.01) for _ in range(3)]
    workers = ScriptedWorkers(lambda _: left.pop() if left else None)
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(1, scorers=()))).job.id
        await desk.until(job_id, "succeeded")
        assert desk.results(job_id)[(0, "explain/default")].attempts == 1


@in_a_loop
async def test_a_provider_that_fails_now_and_then_does_not_stop_a_job(path: Path) -> None:
    down = True
    workers = ScriptedWorkers(
        lambda task: ProviderFailed("no answer") if down and task.record.name.index % 3 == 1 else None
    )
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(9, alike_failures=3))).job.id
        job = await desk.until(job_id, "succeeded")
        assert (job.counts.failed, job.counts.skipped) == (6, 3)
        down = False
        await desk.control.resume(job_id)
        job = await desk.until(job_id, "succeeded")
        assert (job.counts.done, job.counts.failed, job.counts.skipped) == (27, 0, 0)
        with pytest.raises(Conflict):
            await desk.control.resume(job_id)


@in_a_loop
async def test_a_job_whose_first_units_all_fail_alike_is_paused(path: Path) -> None:
    workers = ScriptedWorkers(lambda _: ModelNotFound("there is no such model"))
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(50, concurrency=2, alike_failures=4))).job.id
        job = await desk.until(job_id, "paused")
        assert job.reason is not None and "model_not_found" in job.reason
        assert sum(workers.asked.values()) <= 6
        workers.fail = lambda _: None
        await desk.control.resume(job_id)
        assert (await desk.until(job_id, "succeeded")).counts.done == 150


@in_a_loop
async def test_a_refusal_is_final(path: Path) -> None:
    workers = ScriptedWorkers(lambda task: Refused("it declined") if task.record.name.index == 0 else None)
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(2, scorers=()))).job.id
        await desk.until(job_id, "succeeded")
        with pytest.raises(Conflict):
            await desk.control.resume(job_id)


@in_a_loop
async def test_a_latent_without_examples_is_skipped_with_the_reason(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers, ScriptedFeatures(silent={1})) as desk:
        job_id = (await desk.control.submit(job_spec(3))).job.id
        job = await desk.until(job_id, "succeeded")
        assert (job.counts.done, job.counts.skipped) == (6, 3)
        results = desk.results(job_id)
        assert all("never fires" in (results[(1, stage)].reason or "") for _, stage in results if stage)
        alive = (await desk.control.submit(job_spec(latents=LatentChoice("range", 0, 3)))).job.id
        assert (await desk.until(alive, "succeeded")).counts.total == 6


@in_a_loop
async def test_a_paused_job_finishes_what_it_began_and_begins_nothing(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(10, scorers=(), concurrency=2))).job.id
        await workers.until(lambda: workers.in_flight == 2)
        assert (await desk.control.pause(job_id)).job.status == "paused"
        workers.open.set()
        after = (await desk.control.report(job_id)).job.last_event
        await desk.control.events(job_id, after, 20)
        await workers.until(lambda: workers.in_flight == 0)
        assert len(workers.order) == 2
        with pytest.raises(Conflict):
            await desk.control.pause(job_id)
        await desk.control.resume(job_id)
        await desk.until(job_id, "succeeded")
        assert set(workers.asked.values()) == {1}


@in_a_loop
async def test_a_cancelled_job_stops_at_once_and_for_good(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(10, concurrency=3))).job.id
        await workers.until(lambda: workers.in_flight == 3)
        assert (await desk.control.cancel(job_id)).job.status == "cancelled"
        assert workers.in_flight == 0
        for act in (desk.control.resume, desk.control.pause, desk.control.cancel):
            with pytest.raises(Conflict):
                await act(job_id)
        events, over = await desk.control.events(job_id, 0, 1)
        assert events[-1].kind == "done"
        assert (await desk.control.events(job_id, events[-1].number, 1)) == ([], True)
        assert over


@in_a_loop
async def test_a_deleted_job_is_gone(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(10))).job.id
        other = (await desk.control.submit(job_spec(2, sources=("9-other",)))).job.id
        await workers.until(lambda: workers.in_flight > 2)
        await desk.control.delete(job_id)
        with pytest.raises(NotFound):
            await desk.control.report(job_id)
        workers.open.set()
        await desk.until(other, "succeeded")


@in_a_loop
async def test_nothing_is_begun_after_the_deadline(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(10, deadline_s=SYSTEM_CLOCK.time() + 0.3))).job.id
        job = await desk.until(job_id, "failed")
        assert job.reason is not None and "deadline" in job.reason
        assert workers.in_flight == 0
        workers.open.set()
        await desk.control.amend(job_id, JobChange(deadline_s=SYSTEM_CLOCK.time() + 600))
        await desk.control.resume(job_id)
        await desk.until(job_id, "succeeded")


@in_a_loop
async def test_another_latents_explanation_is_scored_beside_the_true_one(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers) as desk:
        spec = job_spec(4, scorers=(Step("detection"),), baselines=("random-explanation",))
        job_id = (await desk.control.submit(spec)).job.id
        await desk.until(job_id, "succeeded")
        results = desk.results(job_id)
    for latent in range(4):
        scored = results[(latent, "score/default/detection/random-explanation")].result
        assert scored is not None and scored["explanation_of"] != latent
    assert list(workers.asked.values()).count(2) == 4


@in_a_loop
async def test_a_random_sae_is_worked_on_beside_the_true_one(path: Path) -> None:
    workers = ScriptedWorkers()
    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(2, baselines=("random-sae",)))).job.id
        job = await desk.until(job_id, "succeeded")
    assert job.counts.done == 12
    assert {what.split()[1].split("/")[0] for what in workers.asked} == {"3-res", "3-random-res"}


@in_a_loop
async def test_a_callers_key_is_used_and_never_written(path: Path) -> None:
    key = ProviderKey("sk-a-secret-of-the-callers")
    spec = job_spec(2, asked=AskedModel("judge", key=f"caller:{key.fingerprint}"))
    workers = ScriptedWorkers()
    workers.open.clear()
    desk = Desk(path, workers)
    async with desk:
        job_id = (await desk.control.submit(spec, key=key)).job.id
        await workers.until(lambda: workers.in_flight > 0)
        assert all(choice.key == key for choice in workers.choices)
    again = ScriptedWorkers()
    async with Desk(path, again) as desk:
        await desk.until(job_id, "paused_key")
        with_another = ProviderKey("sk-another-secret")
        await desk.control.resume(job_id, with_another)
        await desk.until(job_id, "succeeded")
    assert {choice.key for choice in again.choices} == {with_another}
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"secret" not in written


@in_a_loop
async def test_who_follows_a_job_misses_nothing_wherever_it_begins(path: Path) -> None:
    workers = ScriptedWorkers()

    async def follow(desk: Desk, job_id: str, after: int) -> list[Any]:
        seen: list[Any] = []
        while True:
            events, over = await asyncio.wait_for(desk.control.events(job_id, after, 20), 25)
            seen += events
            if over:
                return seen
            after = events[-1].number

    async with Desk(path, workers) as desk:
        job_id = (await desk.control.submit(job_spec(6))).job.id
        live = await follow(desk, job_id, 0)
        numbers = [event.number for event in live]
        assert numbers == list(range(1, numbers[-1] + 1))
        assert live[-1].kind == "done"
        for after in (0, 1, numbers[-1] // 2, numbers[-1]):
            assert await follow(desk, job_id, after) == live[after:]
        kinds = [event.kind for event in live]
        assert (kinds.count("explanation"), kinds.count("score")) == (6, 12)


@in_a_loop
async def test_what_the_ledger_says_is_told(path: Path) -> None:
    async def spent(account: str) -> Spent:
        return Spent(123, 0.5)

    async with Desk(path, ScriptedWorkers(), spent=spent) as desk:
        job_id = (await desk.control.submit(job_spec(2))).job.id
        await desk.until(job_id, "succeeded")
        await desk.control.delete((await desk.control.submit(job_spec(1))).job.id)
        assert (await desk.control.report(job_id)).job.spent == Spent(123, 0.5)


@in_a_loop
async def test_a_driver_that_was_taken_over_from_stops(path: Path) -> None:
    workers = ScriptedWorkers()
    workers.open.clear()
    async with Desk(path, workers) as old:
        job_id = (await old.control.submit(job_spec(3))).job.id
        await workers.until(lambda: workers.in_flight > 0)
        old.driver.check()
        again = ScriptedWorkers()
        async with Desk(path, again) as new:
            job = await new.until(job_id, "succeeded")
            assert job.counts.done == 9
            workers.open.set()
            await workers.until(lambda: workers.in_flight == 0)
            results = new.results(job_id)
        assert {result.attempts for result in results.values()} <= {1, 2}
    both = workers.asked + again.asked
    assert max(both.values()) == 2


@in_a_loop
async def test_a_job_that_can_not_begin_fails_with_the_reason_and_can_be_resumed(path: Path) -> None:
    gone = True
    features = ScriptedFeatures()

    async def open_features(spec: object, report: object) -> ScriptedFeatures:
        if gone:
            raise Unavailable("The data set could not be loaded.")
        return features

    async with Desk(path, ScriptedWorkers(), open_features=open_features) as desk:
        job_id = (await desk.control.submit(job_spec(1))).job.id
        job = await desk.until(job_id, "failed")
        assert job.reason == "The data set could not be loaded."
        gone = False
        await desk.control.resume(job_id)
        await desk.until(job_id, "succeeded")
        nothing = (await desk.control.submit(job_spec(latents=LatentChoice("range", 5000, 5001)))).job.id
        assert "No latent is left" in ((await desk.until(nothing, "failed")).reason or "")
