"""A budget against a real ledger and a provider that says what it costs: never overspent, and enough is enough."""

import asyncio
from pathlib import Path

from core.autointerp.jobs.choices import AskedModel, Step
from core.autointerp.jobs.control import JobChange
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.providers.ledger import Budget
from tests.unit.autointerp.fake_provider import Call, FakeProvider
from tests.unit.autointerp.jobs.scripted_jobs import Desk, job_spec
from tests.unit.autointerp.jobs.worker import PRICE, DistinctFeatures, House

MODEL = "judge"
USD = 0.05
AT_ONCE = 5  # calls of a unit, at most


def answer(call: Call) -> str:
    lines = [line for line in call.prompt.split("\n") if line.startswith("Example ")]
    return str([0] * len(lines)) if "explanation: cats" in call.prompt else "[EXPLANATION]: cats"


def test_a_job_spends_all_but_one_reservation_of_its_budget_and_goes_on_with_more(tmp_path: Path) -> None:
    async def run() -> None:
        async with FakeProvider(answer, prices=(PRICE.prompt_usd / 1e6, PRICE.completion_usd / 1e6)) as provider:
            house = House(tmp_path, provider.base_url, MODEL)
            await house.workshop.prepare()
            asked = AskedModel(MODEL, base_url=provider.base_url, key="configured")
            spec: JobSpec = job_spec(
                60, asked=asked, scorers=(Step("detection"),), budget=Budget(usd=USD), concurrency=16
            )
            async with Desk(tmp_path / "jobs.sqlite", house.workshop, DistinctFeatures(), spent=house.spent) as desk:
                job_id = (await desk.control.submit(spec)).job.id
                job = await desk.until(job_id, "paused_budget")
                assert job.reason is not None and f"${USD:.6f}" in job.reason
                while (await desk.control.report(job_id)).in_flight:
                    await desk.control.events(job_id, (await desk.control.report(job_id)).job.last_event, 0.2)
                stopped = await house.spent(job.account)
                paid = len(house.charges.charges())
                assert stopped.usd <= USD
                dearest = max(call.body["max_tokens"] for call in provider.calls) * PRICE.completion_usd / 1e6
                prompts = max(sum(len(m["content"].encode()) for m in call.body["messages"]) for call in provider.calls)
                # What is left is less than the next unit's calls could cost, with prompts told from their bytes.
                assert USD - stopped.usd < AT_ONCE * (dearest + (prompts / 3 + 100) * PRICE.prompt_usd / 1e6)
                assert not desk.results(job_id) or {one.state for one in desk.results(job_id).values()} == {"done"}

                await desk.control.amend(job_id, JobChange(usd=100.0))
                await desk.control.resume(job_id)
                job = await desk.until(job_id, "succeeded")
                assert job.counts.done == job.counts.total
                questions = {repr(call.body["messages"]) for call in provider.calls}
                assert len(house.charges.charges()) == len(questions) > paid  # nothing was paid for twice
                assert {one.attempts for one in desk.results(job_id).values()} == {1}
            await house.aclose()

    asyncio.run(asyncio.wait_for(run(), 120))
