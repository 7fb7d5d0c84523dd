"""A workshop finds who is asked, by whose key and at whose cost; what it keeps outlives a task."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from core.autointerp.language_model import Ask, ChatMessage, Reply, Usage
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, Budget, MemoryLedger
from core.autointerp.providers.model import Patience
from core.autointerp.providers.pricing import Price
from core.autointerp.providers.rate import RateLimits
from core.autointerp.tasks import ExplainTask, ModelChoice, Payer, ScoreTask
from core.autointerp.workshop import Books, OwnKey, Rules, Terms, Workshop
from core.deadline import Deadline
from core.errors import (
    BudgetReached,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    ProviderAuth,
    Unavailable,
    UrlRefused,
)
from core.outbound_urls import UrlPolicy
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Call, FakeProvider
from tests.unit.autointerp.scripted import cats_and_stones

EXPLAINED = "[EXPLANATION]: cats"
LOOPBACK = UrlPolicy(("openrouter.ai",), loopback=True)


def judged(call: Call) -> str:
    """Knows the right answer to every question of a judge."""
    lines = [line for line in call.prompt.split("\n") if line.startswith("Example ")]
    return str([int("cat" in line) for line in lines])


def soon() -> Deadline:
    return Deadline.after(600)


def by(provider: FakeProvider, key: str | None = "caller", model: str = "m") -> ModelChoice:
    return ModelChoice(model, base_url=provider.base_url, key=None if key is None else ProviderKey(key))


def explaining(choice: ModelChoice, **payer: Any) -> ExplainTask:
    return ExplainTask("default", {}, cats_and_stones(), choice, Payer(**payer))


def scoring(choice: ModelChoice | None, type_name: str = "detection", **payer: Any) -> ScoreTask:
    return ScoreTask(type_name, {}, cats_and_stones(), "cats", choice, Payer(**payer))


def rules(provider: FakeProvider, **more: Any) -> Rules:
    account = Account("key/own", Budget(tokens=10**6), daily=True)
    own = OwnKey(provider.base_url, ProviderKey("own"), (account,))
    return Rules(urls=LOOPBACK, **({"own_keys": (own,), "patience": Patience(attempts=1)} | more))


def run(test: Callable[[FakeProvider], Any], **provider: Any) -> None:
    async def go() -> None:
        async with FakeProvider(**provider) as server:
            await test(server)

    asyncio.run(asyncio.wait_for(go(), 120))


def test_a_feature_is_explained_and_its_explanation_judged() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        explanation = await workshop.explain(explaining(by(provider)), soon())
        assert (explanation.text, explanation.status) == ("cats", "ok")
        score = await workshop.score(scoring(by(provider)), soon())
        assert (score.value, score.status) == (1.0, "ok")
        assert {call.headers["authorization"] for call in provider.calls} == {"Bearer caller"}
        await workshop.aclose()

    run(test, answer=lambda call: judged(call) if "Example 0:" in call.prompt else EXPLAINED)


def test_a_key_of_the_operators_is_used_where_none_is_brought_and_pays() -> None:
    async def test(provider: FakeProvider) -> None:
        ledger = MemoryLedger()
        workshop = Workshop(rules(provider), Books(ledger=ledger))
        await workshop.explain(explaining(by(provider, key=None)), soon())
        await workshop.explain(explaining(by(provider), accounts=(Account("job/1"),)), soon())
        assert [call.headers["authorization"] for call in provider.calls] == ["Bearer own"]  # the second was kept
        account = Account("key/own", daily=True)
        assert ledger.balance(account).tokens > 0
        assert ledger.balance(Account("job/1")).tokens == 0
        await workshop.aclose()

    run(test, answer=lambda call: EXPLAINED)


def test_a_key_of_the_operators_goes_nowhere_else() -> None:
    async def test(provider: FakeProvider) -> None:
        elsewhere = OwnKey("https://openrouter.ai/api/v1", ProviderKey("own"))
        workshop = Workshop(rules(provider, own_keys=(elsewhere,)))
        with pytest.raises(InvalidRequest, match="No key"):
            await workshop.explain(explaining(by(provider, key=None)), soon())
        assert provider.calls == []
        await workshop.aclose()

    run(test)


def test_an_address_that_is_not_allowed_is_not_called() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop()
        for address in (provider.base_url, "https://elsewhere.example/v1"):
            with pytest.raises(UrlRefused):
                await workshop.explain(explaining(ModelChoice("m", base_url=address, key=ProviderKey("k"))), soon())
        assert provider.calls == []
        await workshop.aclose()

    run(test)


def test_what_is_forced_is_asked_anew() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        usages = [
            (await workshop.explain(explaining(by(provider), force=force), soon())).usage.cached
            for force in (False, False, True)
        ]
        assert usages == [0, 1, 0]
        assert len(provider.calls) == 2
        await workshop.aclose()

    run(test, answer=lambda call: EXPLAINED)


def test_a_failure_is_not_kept() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        with pytest.raises(ProviderAuth):
            await workshop.explain(explaining(by(provider)), soon())
        assert (await workshop.explain(explaining(by(provider)), soon())).text == "cats"
        await workshop.aclose()

    run(test, answer=lambda call: EXPLAINED, acts=[fake.status(401)])


def test_the_gate_of_a_model_holds_for_all_tasks_with_one_key() -> None:
    go = asyncio.Event()

    async def test(provider: FakeProvider) -> None:
        terms = {(provider.base_url, "m"): Terms(limits=RateLimits(in_flight=2)), (provider.base_url, "*"): Terms()}
        workshop = Workshop(rules(provider, terms=terms))
        limited = [asyncio.create_task(workshop.score(scoring(by(provider), force=True), soon())) for _ in range(6)]
        await provider.until(lambda server: server.in_flight == 2)
        go.set()
        await asyncio.gather(*limited)
        assert provider.peak_in_flight == 2
        go.clear()
        free = scoring(by(provider, model="n"), force=True)  # the same question six times, and not once for all
        others = [asyncio.create_task(workshop.score(free, soon())) for _ in range(6)]
        await provider.until(lambda server: server.in_flight == 30)
        go.set()
        await asyncio.gather(*others)
        await workshop.aclose()

    run(test, answer=judged, acts=lambda call: fake.after(go))


def test_the_same_question_of_two_tasks_is_asked_once() -> None:
    go = asyncio.Event()

    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        tasks = [asyncio.create_task(workshop.explain(explaining(by(provider)), soon())) for _ in range(5)]
        await provider.until(lambda server: server.in_flight == 1)
        go.set()
        explanations = await asyncio.gather(*tasks)
        assert {one.text for one in explanations} == {"cats"}
        assert sum(one.usage.cached for one in explanations) == 4
        assert len(provider.calls) == 1
        await workshop.aclose()

    run(test, answer=lambda call: EXPLAINED, acts=lambda call: fake.after(go))


def test_prices_of_the_configuration_count_against_budgets() -> None:
    async def test(provider: FakeProvider) -> None:
        terms = {(provider.base_url, "m"): Terms(Price(1000.0, 1000.0))}
        workshop = Workshop(rules(provider, terms=terms))
        poor = Account("job/poor", Budget(usd=0.01))
        with pytest.raises(BudgetReached):
            await workshop.explain(explaining(by(provider), accounts=(poor,)), soon())
        assert provider.calls == []
        await workshop.aclose()

    run(test)


class Parrot:
    """A model of this cluster."""

    name, place = "parrot", "cluster"

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        return Reply(EXPLAINED, Usage(1, 1, calls=1), self.name)


def test_local_models_are_found_by_name() -> None:
    def find(name: str) -> Parrot:
        if name != "parrot":
            raise ModelNotFound(f"no {name}")
        return Parrot()

    async def test() -> None:
        workshop = Workshop(local=find)
        explanation = await workshop.explain(explaining(ModelChoice("parrot", "local")), soon())
        assert explanation.text == "cats"
        with pytest.raises(ModelNotFound, match="no cuckoo"):
            await workshop.explain(explaining(ModelChoice("cuckoo", "local")), soon())
        await workshop.aclose()
        alone = Workshop()
        with pytest.raises(ModelNotFound):
            await alone.explain(explaining(ModelChoice("parrot", "local")), soon())
        await alone.aclose()

    asyncio.run(test())


def test_unknown_types_and_missing_means_are_named() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        with pytest.raises(NotFound, match="no scorer guessing"):
            await workshop.score(scoring(by(provider), "guessing"), soon())
        with pytest.raises(Unavailable, match="embedding"):
            await workshop.score(scoring(None, "embedding"), soon())
        with pytest.raises(Unavailable, match="language model"):
            await workshop.score(scoring(None), soon())
        await workshop.aclose()

    run(test)


def test_a_deadline_ends_a_task() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        await workshop.prepare()
        with pytest.raises(DeadlineExceeded):
            await workshop.explain(explaining(by(provider)), Deadline.after(3))
        assert len(provider.calls) == 1
        await provider.until(lambda server: server.in_flight == 0)
        await workshop.aclose()

    run(test, acts=[fake.hangs()])


def test_keys_show_nowhere() -> None:
    choice = ModelChoice("m", key=ProviderKey("sk-hidden"))
    own = Rules(own_keys=(OwnKey("https://a.example/v1", ProviderKey("sk-hidden")),))
    task = ExplainTask("default", {}, cats_and_stones(), choice)
    for shown in (repr(choice), str(task), repr(own), f"{own.own_keys[0]}"):
        assert "hidden" not in shown


def test_a_language_model_is_asked_on_somebodys_behalf() -> None:
    async def test(provider: FakeProvider) -> None:
        workshop = Workshop(rules(provider))
        model = workshop.model(by(provider), Payer(), soon())
        reply = await model.ask(Ask((ChatMessage("user", "hello"),), 10))
        assert reply.text == "yes"
        await workshop.aclose()

    run(test)
