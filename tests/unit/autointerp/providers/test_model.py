"""A model behind a URL, against a server that misbehaves: each failure has its type, what may pass is tried again,
every limit holds with many calls at once, money is counted once per reply, and the key is nowhere."""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from core.autointerp.language_model import Ask, ChatMessage, Reply, Usage
from core.autointerp.providers.cache import CachedModel, MemoryReplies
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, Budget, MemoryLedger
from core.autointerp.providers.local import LocalEndpoint
from core.autointerp.providers.model import Errand, Patience, ProviderModel
from core.autointerp.providers.openai import OpenAIEndpoint, open_client
from core.autointerp.providers.pricing import Price
from core.autointerp.providers.rate import RateGate, RateLimits
from core.deadline import Deadline
from core.errors import (
    BudgetReached,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    ProviderAuth,
    ProviderBusy,
    ProviderCredits,
    ProviderFailed,
    ProviderRejected,
    ProviderTimedOut,
    RayscopeError,
    Refused,
    Unavailable,
    UrlRefused,
)
from core.outbound_urls import UrlPolicy
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Act, FakeProvider

SECRET = "sk-or-v1-5f2d1c0a9b8e7d6c"
PART = "5f2d1c0a"
QUESTION = Ask((ChatMessage("system", "Explain."), ChatMessage("user", "the cat sat")), max_tokens=20)


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class World:
    """A provider, and models that ask it."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.client = open_client(UrlPolicy(loopback=True))
        self.waits = Waits()

    def model(self, name: str = "m", *, limits: RateLimits | None = None, **settings: Any) -> ProviderModel:
        endpoint = OpenAIEndpoint(self.client, self.provider.base_url, name, ProviderKey(SECRET))
        settings.setdefault("sleep", self.waits)
        settings.setdefault("gate", RateGate(limits or RateLimits()))
        return ProviderModel(endpoint, **settings)


def against(**provider: Any) -> Callable[..., Callable[..., None]]:
    """Runs a test against such a provider, and sees that nothing told the key."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        async def run() -> None:
            async with FakeProvider(**provider) as server:
                world = World(server)
                async with world.client:
                    await test(world)

        @functools.wraps(test)
        def runs(caplog: pytest.LogCaptureFixture) -> None:
            with caplog.at_level(logging.DEBUG):
                asyncio.run(asyncio.wait_for(run(), 30))
            assert PART not in caplog.text

        del runs.__wrapped__  # pytest reads the parameters of what is wrapped
        return runs

    return decorate


async def failure(model: ProviderModel, question: Ask = QUESTION) -> RayscopeError:
    with pytest.raises(RayscopeError) as caught:
        await model.ask(question)
    error = caught.value
    shown = [str(error), repr(error), error.text, repr(error.args), repr(model), repr(error.__context__)]
    assert PART not in " ".join(shown)
    assert error.__suppress_context__
    return error


@against(answer=lambda call: f"it is {call.prompt}", keys=frozenset({SECRET}), prices=(1e-6, 2e-6))
async def test_an_answer_comes_with_what_it_cost(world: World) -> None:
    reply = await world.model().ask(QUESTION)
    assert reply == Reply("it is the cat sat", Usage(4, 5, pytest.approx(14e-6), calls=1), "m")
    assert world.provider.calls[0].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Explain."}, {"role": "user", "content": "the cat sat"}],
        "max_tokens": 20,
    }


@against()
async def test_sampling_and_schema_are_sent_as_openai_has_them(world: World) -> None:
    schema = {"type": "object"}
    asked = Ask(QUESTION.messages, 9, temperature=0.0, seed=7, top_logprobs=5, schema=schema)
    reply = await world.model("o3-mini").ask(asked)
    body = world.provider.calls[0].body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["temperature"], body["seed"]) == (9, 0.0, 7)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert [(token.text, token.logprob, len(token.top)) for token in reply.tokens] == [("yes", -0.25, 5)]


@against()
async def test_log_probabilities_of_the_prompt_are_vllms(world: World) -> None:
    reply = await world.model().ask(Ask(QUESTION.messages, 1, top_logprobs=15, prompt_logprobs=True))
    assert world.provider.calls[0].body["prompt_logprobs"] == 15
    assert [token.text for token in reply.prompt] == ["", "the", " cat", " sat"]
    assert [token.logprob for token in reply.prompt] == [0.0, -1.5, -1.5, -1.5]
    assert reply.prompt[2].top == ((" cat", -1.5), ("not  cat", -0.5))


PLAIN = Ask((ChatMessage("user", "the cat sat"),), 1, 0.0, top_logprobs=5, prompt_logprobs=True)


@against()
async def test_a_plain_text_is_echoed_with_its_log_probabilities(world: World) -> None:
    reply = await world.model().ask(PLAIN)
    assert world.provider.calls[0].body == {
        "model": "m",
        "prompt": "the cat sat",
        "max_tokens": 1,
        "temperature": 0.0,
        "echo": True,
        "logprobs": 5,
    }
    assert [(token.text, token.logprob) for token in reply.prompt] == [("the", 0.0), (" cat", -1.5), (" sat", -1.5)]
    assert reply.prompt[2].top == ((" sat", -1.5), ("not  sat", -0.5))
    assert (reply.text, [token.text for token in reply.tokens]) == ("yes", ["yes"])
    assert reply.usage == Usage(3, 1, calls=1)


def without_echo(call: fake.Call) -> Act | None:
    """A provider that completes, and says nothing of the prompt."""
    body = {"choices": [{"text": " down", "logprobs": {"tokens": [" down"], "token_logprobs": [-1.0]}}]}
    counted = {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    return fake.says({**body, **counted}) if call.is_plain else None


@pytest.mark.parametrize(
    ("plain", "calls"),
    [
        (lambda call: fake.status(404, "Not Found") if call.is_plain else None, 1),
        (lambda call: fake.status(405, "Method Not Allowed") if call.is_plain else None, 1),
        (lambda call: fake.status(400, "echo is not supported") if call.is_plain else None, 1),
        (without_echo, 2),
    ],
)
def test_a_provider_without_plain_texts_is_asked_by_vllms_chat_from_then_on(
    plain: Callable[[fake.Call], Act | None], calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    @against(acts=plain)
    async def asks(world: World) -> None:
        model = world.model()
        first, second = await model.ask(PLAIN), await model.ask(PLAIN)
        assert [token.text for token in first.prompt] == [token.text for token in second.prompt]
        assert [call.is_plain for call in world.provider.calls] == [True, False, False]
        assert world.provider.calls[1].body["prompt_logprobs"] == 5
        assert (first.usage.calls, second.usage.calls) == (calls, 1)  # what was answered in vain costs, too

    asks(caplog)


@against(acts=lambda call: fake.status(404, "no such model"))
async def test_a_model_that_is_nowhere_does_not_unlearn_plain_texts(world: World) -> None:
    model = world.model()
    assert isinstance(await failure(model, PLAIN), ModelNotFound)
    world.provider.acts = lambda call: None
    await model.ask(PLAIN)
    assert [call.is_plain for call in world.provider.calls] == [True, False, True]


@against(acts=lambda call: fake.status(401) if call.is_plain else None)
async def test_a_refused_key_is_not_tried_in_another_form(world: World) -> None:
    assert isinstance(await failure(world.model(), PLAIN), ProviderAuth)
    assert len(world.provider.calls) == 1


@against(answer=lambda call: call.prompt)
async def test_calls_share_connections_never_more_than_are_in_flight(world: World) -> None:
    model = world.model(limits=RateLimits(in_flight=4))
    questions = [Ask((ChatMessage("user", f"q{number}"),), 5) for number in range(50)]
    assert [reply.text for reply in await model.ask_all(questions)] == [f"q{number}" for number in range(50)]
    assert len(world.provider.calls) == 50
    assert len(world.provider.connections) <= 4


@against(acts=[fake.resets(), None, fake.resets(), None], answer=lambda call: call.prompt)
async def test_a_connection_that_breaks_is_replaced(world: World) -> None:
    model = world.model()
    replies = [await model.ask(QUESTION) for _ in range(3)]
    assert [reply.usage.retries for reply in replies] == [1, 1, 0]
    assert len(world.provider.connections) == 3


@against(acts=lambda call: fake.says({"choices": [{"message": {"content": "yes"}}]}))
async def test_log_probabilities_that_are_not_given_are_an_error(world: World) -> None:
    assert isinstance(await failure(world.model(), Ask(QUESTION.messages, 5, top_logprobs=5)), ProviderRejected)
    assert isinstance(await failure(world.model(), Ask(QUESTION.messages, 5, prompt_logprobs=True)), ProviderRejected)


def takes_nothing(call: fake.Call) -> Act | None:
    """Refuses fields one by one, as providers of old and of thinking models do."""
    for field in ("response_format", "temperature", "seed", "max_tokens"):
        if field in call.body:
            instead = " Use 'max_completion_tokens' instead." if field == "max_tokens" else ""
            return fake.status(400, f"Unsupported parameter: '{field}'.{instead}", param=field)
    return None


@against(acts=takes_nothing)
async def test_fields_that_a_provider_does_not_take_are_left_out_from_then_on(world: World) -> None:
    model = world.model()
    asked = Ask(QUESTION.messages, 9, temperature=0.5, seed=7, schema={"type": "object"})
    replies = [await model.ask(asked) for _ in range(3)]
    assert [reply.text for reply in replies] == ["yes"] * 3
    assert len(world.provider.calls) == 4 + 3
    assert world.provider.calls[-1].body.keys() == {"model", "messages", "max_completion_tokens"}


FINAL: list[tuple[Act, type[RayscopeError]]] = [
    (fake.status(401, f"Incorrect API key provided: {SECRET}"), ProviderAuth),
    (fake.status(401, f"Incorrect key {SECRET[:14]}****"), ProviderAuth),
    (fake.status(403, "forbidden"), ProviderAuth),
    (fake.status(403, "flagged", metadata={"reasons": ["violence"]}), Refused),
    (fake.status(402, "Insufficient credits"), ProviderCredits),
    (fake.says({"error": {"message": "quota", "code": "insufficient_quota"}}, 429), ProviderCredits),
    (fake.status(404, "no such model"), ModelNotFound),
    (fake.status(400, "This model's maximum context length is 4096 tokens"), PromptTooLong),
    (fake.says({"error": {"message": "long", "code": "context_length_exceeded"}}, 400), PromptTooLong),
    (fake.status(413), PromptTooLong),
    (fake.status(400, "bad role"), ProviderRejected),
    (fake.status(422, "bad role"), ProviderRejected),
    (fake.says(b"moved", 302, "text/plain"), ProviderRejected),
    (fake.error_in_200(401), ProviderAuth),
    (fake.null_content(), Refused),
    (fake.chooses({"content": ""}, "length"), Refused),
    (fake.refuses(), Refused),
    (fake.filtered(), Refused),
]


@pytest.mark.parametrize(("act", "type_"), FINAL, ids=lambda value: getattr(value, "__name__", None))
def test_what_no_other_attempt_can_help_is_told_at_once(
    act: Act, type_: type[RayscopeError], caplog: pytest.LogCaptureFixture
) -> None:
    @against(acts=[act])
    async def asks(world: World) -> None:
        error = await failure(world.model())
        assert type(error) is type_
        assert (len(world.provider.calls), world.waits.seconds) == (1, [])

    asks(caplog)


PASSING: list[tuple[Act, type[RayscopeError]]] = [
    *((fake.status(code), ProviderTimedOut) for code in (408, 504)),
    *((fake.status(code), ProviderFailed) for code in (409, 425, 500, 502, 503, 529)),
    (fake.status(429), ProviderBusy),
    (fake.error_in_200(502), ProviderFailed),
    (fake.resets(), ProviderFailed),
    (fake.malformed(), ProviderFailed),
    (fake.says(b"[]"), ProviderFailed),
    (fake.says({"choices": []}), ProviderFailed),
    (fake.says(b"<html>", 503, "text/html"), ProviderFailed),
]


@pytest.mark.parametrize(("act", "type_"), PASSING, ids=lambda value: getattr(value, "__name__", None))
def test_what_may_pass_is_tried_six_times(
    act: Act, type_: type[RayscopeError], caplog: pytest.LogCaptureFixture
) -> None:
    @against(acts=[act] * 5 + [None] + [act] * 6)
    async def asks(world: World) -> None:
        reply = await world.model().ask(QUESTION)
        assert (reply.text, reply.usage.retries, reply.usage.calls) == ("yes", 5, 1)
        assert type(await failure(world.model())) is type_
        assert len(world.provider.calls) == 12
        assert len(world.waits.seconds) == 10
        bounds = [1.0, 2.0, 4.0, 8.0, 16.0] * 2
        assert all(0 <= wait <= bound for wait, bound in zip(world.waits.seconds, bounds, strict=True))
        assert len(set(world.waits.seconds)) == 10

    asks(caplog)


@against(acts=[fake.status(503, retry_after="7"), fake.status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")])
async def test_retry_after_is_honoured_before_the_jitter(world: World) -> None:
    await world.model().ask(QUESTION)
    first, second = world.waits.seconds
    assert 7.0 <= first <= 8.0
    assert 0.0 <= second <= 2.0


@against(acts=lambda call: fake.status(429, retry_after="300"))
async def test_a_wait_beyond_the_patience_or_the_deadline_is_not_begun(world: World) -> None:
    error = await failure(world.model())
    assert isinstance(error, ProviderBusy)
    assert error.retry_after_s == 300.0
    patient = Patience(total_s=1000.0)
    hurried = Errand(deadline=Deadline.after(200.0))
    await failure(world.model(patience=patient, errand=hurried))
    assert (len(world.provider.calls), world.waits.seconds) == (2, [])


@against(acts=lambda call: fake.hangs())
async def test_a_provider_that_hangs_is_a_timeout_and_a_deadline_is_a_deadline(world: World) -> None:
    error = await failure(world.model(patience=Patience(attempts=2, attempt_s=0.05)))
    assert isinstance(error, ProviderTimedOut)
    assert len(world.provider.calls) == 2
    with pytest.raises(DeadlineExceeded):
        await world.model(errand=Errand(deadline=Deadline.after(0.05))).ask(QUESTION)


@against(acts=lambda call: fake.hangs())
async def test_a_cancelled_call_holds_neither_place_nor_money(world: World) -> None:
    ledger, job = MemoryLedger(), Account("job/1", Budget(tokens=100))
    model = world.model(ledger=ledger, errand=Errand(accounts=(job,)))
    task = asyncio.create_task(model.ask(QUESTION))
    await world.provider.until(lambda provider: provider.in_flight == 1)
    assert ledger.balance(job).reserved_tokens > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (ledger.balance(job).reserved_tokens, model.gate.is_idle) == (0, True)
    await world.provider.until(lambda provider: provider.in_flight == 0)


@against(answer=lambda call: call.prompt, latency=fake.lognormal(0.005))
async def test_many_questions_are_answered_in_order_within_the_limits(world: World) -> None:
    model = world.model(limits=RateLimits(in_flight=8))
    asked = [Ask((ChatMessage("user", f"q{number}"),), 5) for number in range(100)]
    assert [reply.text for reply in await model.ask_all(asked)] == [f"q{number}" for number in range(100)]
    assert world.provider.peak_in_flight == 8
    job = Errand(slots=asyncio.Semaphore(3))
    models = [world.model("a", errand=job), world.model("b", errand=job)]
    world.provider.peak_in_flight = 0
    await asyncio.gather(*(each.ask_all(asked[:30]) for each in models))
    assert world.provider.peak_in_flight == 3


@against(acts=lambda call: fake.status(429) if call.in_flight > 4 else None, latency=lambda: 0.05)
async def test_calls_in_flight_settle_where_a_provider_stops_refusing(world: World) -> None:
    async def briefly(seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)

    model = world.model(limits=RateLimits(in_flight=32), sleep=briefly, patience=Patience(attempts=100))
    await model.ask_all([QUESTION] * 60)
    assert model.gate.share < 0.5
    first, last = world.provider.calls[:32], world.provider.calls[-30:]
    assert max(call.in_flight for call in first) > 16
    assert max(call.in_flight for call in last) <= 8


@against(acts=lambda call: fake.status(401) if call.prompt == "q3" else fake.hangs())
async def test_the_first_failure_of_many_ends_the_others(world: World) -> None:
    model = world.model()
    with pytest.raises(ProviderAuth):
        await model.ask_all([Ask((ChatMessage("user", f"q{number}"),), 5) for number in range(6)])
    assert model.gate.is_idle


@against(answer=lambda call: "one two three four five")
async def test_a_budget_stops_before_it_is_passed_however_many_ask(world: World) -> None:
    ledger, job = MemoryLedger(), Account("job/1", Budget(usd=0.01))
    price = Price(10.0, 20.0)
    model = world.model(ledger=ledger, errand=Errand(accounts=(job,)), price=price)
    results = await asyncio.gather(*(model.ask(QUESTION) for _ in range(200)), return_exceptions=True)
    replies = [result for result in results if isinstance(result, Reply)]
    assert 0 < len(replies) < 200
    assert all(isinstance(result, Reply | BudgetReached) for result in results)
    assert len(world.provider.calls) == len(replies)
    balance = ledger.balance(job)
    assert (
        balance.usd == pytest.approx(len(replies) * (4 * 10 + 5 * 20) / 1e6) == sum(r.usage.cost_usd for r in replies)
    )
    assert (balance.tokens, balance.reserved_usd) == (9 * len(replies), 0.0)
    assert balance.usd <= 0.01


@against(acts=[fake.status(503), fake.resets(), None, fake.refuses(), fake.status(401)])
async def test_a_reply_is_paid_once_a_refusal_too_and_a_failure_never(world: World) -> None:
    ledger, job = MemoryLedger(), Account("job/1")
    model = world.model(ledger=ledger, errand=Errand(accounts=(job,)))
    await model.ask(QUESTION)
    assert ledger.balance(job).tokens == 5
    await failure(model)
    assert ledger.balance(job).tokens == 9  # it read the prompt
    await failure(model)
    assert (ledger.balance(job).tokens, ledger.balance(job).reserved_tokens) == (9, 0)


@against(acts=[fake.status(401), fake.refuses(), fake.malformed()])
async def test_a_cache_keeps_replies_never_failures_and_force_asks_anew(world: World) -> None:
    cache = MemoryReplies()
    inner = world.model(patience=Patience(attempts=1))
    model = CachedModel(inner, cache, inner.endpoint.place)
    for _ in range(3):
        with pytest.raises(RayscopeError):
            await model.ask(QUESTION)
    first = await model.ask(QUESTION)
    assert (first.usage.calls, len(world.provider.calls)) == (1, 4)
    second = await model.ask(QUESTION)
    assert (second.text, second.usage) == (first.text, Usage(cached=1))
    assert len(world.provider.calls) == 4
    await CachedModel(inner, cache, inner.endpoint.place, force=True).ask(QUESTION)
    await CachedModel(inner, cache, "https://elsewhere.example/v1").ask(QUESTION)
    assert len(world.provider.calls) == 6


def test_a_key_shows_itself_nowhere_and_must_fit_into_a_header() -> None:
    key = ProviderKey(SECRET)
    assert PART not in f"{key} {key!r} {key.fingerprint}"
    assert key.hidden_in(f"Incorrect API key provided: {SECRET}. See sk-ab***yz") == (
        "Incorrect API key provided: [key]. See [key]"
    )
    for value in ("sk-1\r\nX: y", "sk 1", "schlüssel"):
        with pytest.raises(InvalidRequest) as caught:
            ProviderKey(value)
        assert value not in repr(caught.value)


@against()
async def test_only_urls_that_the_policy_admits_are_called(world: World) -> None:
    async with open_client(UrlPolicy()) as client:
        endpoint = OpenAIEndpoint(client, world.provider.base_url, "m", ProviderKey(SECRET))
        with pytest.raises(UrlRefused):
            await ProviderModel(endpoint, RateGate(RateLimits())).ask(QUESTION)
    with pytest.raises(UrlRefused) as caught:
        OpenAIEndpoint(world.client, f"https://x.example/v1?key={SECRET}", "m")
    assert PART not in caught.value.text
    assert world.provider.calls == []


class Cluster:
    """A deployment's `chat`."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[dict[str, Any]] = []

    async def chat(self, messages: Any, **settings: Any) -> str:
        self.asked.append({"messages": [(each.role, each.content) for each in messages], **settings})
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_a_model_of_this_cluster_is_asked_by_its_function() -> None:
    async def run() -> None:
        waits = Waits()
        cluster = Cluster(Overloaded("full", None, 0.05), Unavailable("starting"), DeadlineExceeded("late"), "yes sir")
        endpoint = LocalEndpoint("gemma", cluster.chat, count_tokens=lambda text: len(text.split()))
        gate = RateGate(RateLimits())
        model = ProviderModel(endpoint, gate, sleep=waits, patience=Patience(attempt_s=50.0))
        task = asyncio.create_task(model.ask(Ask(QUESTION.messages, 20, temperature=0.5)))
        await asyncio.wait({task}, timeout=10)
        reply = await task
        assert reply == Reply("yes sir", Usage(4, 2, calls=1, retries=3), "gemma")
        assert 0.05 <= waits.seconds[0] <= 1.05
        expected = [("system", "Explain."), ("user", "the cat sat")]
        assert cluster.asked[3] == {"messages": expected, "max_tokens": 20, "timeout_s": 50.0, "temperature": 0.5}
        for wanted in ({"top_logprobs": 1}, {"prompt_logprobs": True}):
            with pytest.raises(ProviderRejected):
                await model.ask(Ask(QUESTION.messages, 20, **wanted))
        cluster.outcomes = [InvalidRequest("too long"), ""]
        with pytest.raises(InvalidRequest, match="too long"):
            await model.ask(QUESTION)
        with pytest.raises(Refused):
            await model.ask(QUESTION)
        assert gate.is_idle

    asyncio.run(run())
