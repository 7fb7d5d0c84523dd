"""A process that works on a job is killed in the middle, and another goes on: what was done, asked and paid for."""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from core.autointerp.jobs.choices import AskedModel, Step
from core.autointerp.jobs.history import History
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore
from core.autointerp.jobs.units import account_of
from tests.unit.autointerp.fake_provider import Act, Call, FakeProvider, hangs
from tests.unit.autointerp.jobs.scripted_jobs import job_spec

ROOT = Path(__file__).parents[4]
MODEL = "judge"
ANSWERED_BEFORE = 17
LATENTS = 6


def answer(call: Call) -> str:
    """Explains, and judges every text right."""
    lines = [line for line in call.prompt.split("\n") if line.startswith("Example ")]
    if "explanation: cats" in call.prompt:
        return str([int("cat" in line) for line in lines])
    return "[EXPLANATION]: cats"


async def started(folder: Path, provider: FakeProvider, *spec: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "tests.unit.autointerp.jobs.worker", str(folder), provider.base_url, MODEL, *spec)
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT)


async def charged(folder: Path, count: int) -> None:
    """Waits until so many charges are written."""
    while True:
        charges = ChargeFile(folder / "charges.sqlite")
        found = len(charges.charges())
        charges.close()
        if found >= count:
            return
        await asyncio.sleep(0.05)


def test_what_was_done_before_a_kill_is_neither_done_nor_paid_for_again(tmp_path: Path) -> None:
    dying = True

    def act(call: Call) -> Act | None:
        return hangs() if dying and sum(one.answered for one in provider.calls) >= ANSWERED_BEFORE else None

    provider = FakeProvider(answer, act)

    async def run() -> None:
        nonlocal dying
        async with provider:
            asked = AskedModel(MODEL, base_url=provider.base_url, key="configured")
            spec: JobSpec = job_spec(LATENTS, asked=asked, scorers=(Step("detection"),), concurrency=3)
            first = await started(tmp_path, provider, spec.dumped().decode())
            await asyncio.wait_for(charged(tmp_path, ANSWERED_BEFORE), 120)
            await asyncio.wait_for(provider.until(lambda it: it.in_flight > 0), 30)
            os.kill(first.pid, signal.SIGKILL)
            await first.wait()
            dying = False
            again = await started(tmp_path, provider)
            assert await asyncio.wait_for(again.wait(), 120) == 0

    asyncio.run(run())
    store = JobStore(file := JobFile(tmp_path / "jobs.sqlite"))
    (job,) = store.jobs()
    results = list(History(file).all_results(job.id))
    assert (job.status, job.counts.done, len(results)) == ("succeeded", 2 * LATENTS, 2 * LATENTS)
    assert {result.state for result in results} == {"done"}
    assert {result.attempts for result in results} == {1, 2}  # some were in progress, and nobody tried thrice
    values = [result.result["value"] for result in results if result.stage.kind == "score" and result.result]
    assert values == [1.0] * LATENTS

    asked = Counter(repr(call.body["messages"]) for call in provider.calls)
    answered = [call for call in provider.calls if call.answered]
    assert max(asked.values()) <= 2
    assert len(answered) == len(asked)  # each question was answered once, before the kill or after
    charges = ChargeFile(tmp_path / "charges.sqlite")
    mine = [charge for charge in charges.charges() if account_of(job.id) in charge.entries]
    assert len(mine) == len(answered)
    told = [provider.completion(call, answer(call))["usage"]["total_tokens"] for call in answered]
    assert sum(charge.tokens for charge in mine) == sum(told) == job.spent.tokens
    charges.close()
    file.close()
