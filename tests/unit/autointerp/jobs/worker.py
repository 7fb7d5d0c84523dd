"""A process that works on the jobs in a folder until they have ended, or until it is killed; see `test_killed`.

python -m tests.unit.autointerp.jobs.worker FOLDER [SPECIFICATION]
"""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.units import Spent
from core.autointerp.providers.cache_file import ReplyFile
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, MemoryLedger
from core.autointerp.providers.pricing import Price
from core.autointerp.workshop import Books, OwnKey, Rules, Terms, Workshop
from core.outbound_urls import UrlPolicy
from tests.unit.autointerp.jobs.scripted_jobs import Desk, ScriptedFeatures

PRICE = Price(1.0, 2.0)


class DistinctFeatures(ScriptedFeatures):
    """Features whose texts say which they are, so that no two units ask the same."""

    async def record(self, name: FeatureName) -> FeatureRecord | str:
        record = await super().record(name)
        assert isinstance(record, FeatureRecord)
        return replace(
            record,
            train=tuple(_of(name, one) for one in record.train),
            test=tuple(_of(name, one) for one in record.test),
            silent=tuple(_of(name, one) for one in record.silent),
        )


def _of(name: FeatureName, one: Example) -> Example:
    return replace(one, tokens=(*one.tokens, f" of {name.index}"), activations=(*one.activations, 0.0))


class House:
    """What a host keeps in a folder, and a workshop over it."""

    def __init__(self, folder: Path, base_url: str, model: str) -> None:
        self.charges = ChargeFile(folder / "charges.sqlite")
        self.ledger = MemoryLedger(self.charges)
        self.ledger.restore(self.charges.charges())
        self.replies = ReplyFile(folder / "replies.sqlite")
        self.workshop = Workshop(
            Rules(
                urls=UrlPolicy(("openrouter.ai",), loopback=True),
                own_keys=(OwnKey(base_url, ProviderKey("sk-our-own")),),
                terms={(base_url, model): Terms(PRICE)},
            ),
            Books(ledger=self.ledger, replies=self.replies),
        )

    async def spent(self, account: str) -> Spent:
        """What the ledger says."""
        balance = self.ledger.balance(Account(account))
        return Spent(balance.tokens, balance.usd)

    async def aclose(self) -> None:
        """Closes the files."""
        await self.workshop.aclose()
        self.replies.close()
        self.charges.close()


async def work(folder: Path, base_url: str, model: str, spec: JobSpec | None) -> None:
    """Works until every job has ended."""
    house = House(folder, base_url, model)
    await house.workshop.prepare()
    async with Desk(folder / "jobs.sqlite", house.workshop, DistinctFeatures(), spent=house.spent) as desk:
        if spec is not None:
            await desk.control.submit(spec)
        for report in await desk.control.reports():
            await desk.until(report.job.id, "succeeded")
    await house.aclose()


if __name__ == "__main__":
    place, url, name, *rest = sys.argv[1:]
    asyncio.run(work(Path(place), url, name, JobSpec.loaded(rest[0].encode()) if rest else None))
