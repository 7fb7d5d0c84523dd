"""ProviderModel: a language model that is asked through limits, a budget and retries, and says what it cost.

    ask: the job's slot -> the gate's turn -> reserve -> one attempt -> settle      again if it may pass
         `core.deadline` around it all

What may pass (`failures`) is tried again, six times within two minutes at most: a wait drawn at random below a bound
that doubles ("full jitter": Brooker 2015, "Exponential Backoff And Jitter"), after what `Retry-After` asks for. The
jitter is the system's randomness, since libraries nearby seed the global one. A wait that would end after the deadline
is not begun.

Money is set aside for each attempt just before it is made, so those that wait hold none. An attempt that failed costs
nothing, unless the provider said that it does: a refusal is paid for. One that is cancelled counts nothing, though a
provider may charge for it.

Cheap to make: one per request or job, over an endpoint and a gate that live longer.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import SystemRandom
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from core.autointerp.language_model import Ask, Reply, Usage
from core.autointerp.providers.endpoint import Endpoint
from core.autointerp.providers.failures import AttemptFailed
from core.autointerp.providers.gate import Gate, Turn
from core.autointerp.providers.ledger import Account, Ledger
from core.autointerp.providers.pricing import Price, prompt_tokens
from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.errors import RayscopeError

_LOG = logging.getLogger("ray.serve")
_RANDOM: Final = SystemRandom()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: Attempts in all.
        total_s: No attempt begins later than this after the first.
        attempt_s: Seconds for one.
        backoff_s: The first wait is below this; each bound is twice the one before.
        longest_backoff_s: No bound is higher.
    """

    attempts: int = 6
    total_s: float = 120.0
    attempt_s: float = 100.0
    backoff_s: float = 1.0
    longest_backoff_s: float = 30.0

    def bound_s(self, attempt: int) -> float:
        """Below which the wait after an attempt is drawn; the first is 1."""
        return min(self.longest_backoff_s, self.backoff_s * 2 ** (attempt - 1))


@dataclass(frozen=True, slots=True)
class Errand:
    """On whose behalf a model is asked.

    Attributes:
        owner: Whose turn it is at the gate: a job, or a request's key.
        accounts: Who pays.
        slots: How many questions the job asks at once, over all its models; None: as many as the gates let through.
        deadline: When its answers are of no use any more.
    """

    owner: str = ""
    accounts: tuple[Account, ...] = ()
    slots: asyncio.Semaphore | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """A `LanguageModel` over an endpoint.

    Attributes:
        endpoint: Is asked.
        gate: How fast.
        errand: On whose behalf.
        ledger: Counts; None: nobody does.
        price: What it costs where the provider does not say; None if nobody knows.
        patience: How long to try.
        clock: Reads the time.
        sleep: Waits between attempts.
    """

    endpoint: Endpoint
    gate: Gate
    errand: Errand = Errand()
    ledger: Ledger | None = None
    price: Price | None = None
    patience: Patience = Patience()
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)

    @property
    def name(self) -> str:
        """Which model, as it is asked for."""
        return self.endpoint.name

    async def ask(self, question: Ask) -> Reply:
        """One answer; `usage.retries` says how many attempts failed before it.

        Raises:
            BudgetReached: It could cost more than an account has left.
            DeadlineExceeded: It was not there in time.
            RayscopeError: There is none; the type says why (`core.errors`, `Provider...` and others).
        """
        failed = 0

        async def attempt() -> Reply:
            nonlocal failed
            failed += 1
            return await self._attempt(question)

        deadline = self.errand.deadline
        limit = _nothing() if deadline is None else deadline.limit(self.clock)
        async with limit, self.errand.slots or _nothing():
            try:
                reply = await self._retrying()(attempt)
            except AttemptFailed as failure:
                raise failure.error from None
        return replace(reply, usage=replace(reply.usage, retries=failed - 1))

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        """Answers, in order; see `ask_each`."""
        return await ask_each(self.ask, questions)

    async def _attempt(self, question: Ask) -> Reply:
        tokens = prompt_tokens(question) + question.max_tokens
        async with self.gate.admit(tokens, self.errand.owner) as passage, self._paid(question, passage) as pay:
            try:
                reply = await self.endpoint.attempt(question, self.patience.attempt_s)
            except AttemptFailed as failure:
                if failure.throttled:
                    passage.throttled(failure.retry_after_s)
                if failure.usage is not None:
                    pay(self._priced(failure.usage))
                raise
            usage = self._priced(reply.usage)
            pay(usage)
            passage.succeeded(usage.prompt_tokens + usage.completion_tokens)
            return replace(reply, usage=usage)

    @asynccontextmanager
    async def _paid(self, question: Ask, passage: Turn) -> AsyncGenerator[Callable[[Usage], None]]:
        """Sets aside what the body can cost, and settles what it says that it did."""
        costs: list[Usage] = []
        if self.ledger is None:
            yield costs.append
            return
        read = prompt_tokens(question)
        usd = None if self.price is None else self.price.cost_usd(read, question.max_tokens)
        try:
            reservation = await self.ledger.reserve(self.errand.accounts, read + question.max_tokens, usd)
        except RayscopeError:
            passage.unused()
            raise
        try:
            yield costs.append
        finally:
            await self.ledger.settle(reservation, costs[0] if costs else None)

    def _priced(self, usage: Usage) -> Usage:
        if usage.cost_usd is not None or self.price is None:
            return usage
        return replace(usage, cost_usd=self.price.cost_usd(usage.prompt_tokens, usage.completion_tokens))

    def _retrying(self) -> AsyncRetrying:
        patience, deadline, clock = self.patience, self.errand.deadline, self.clock
        began_s = clock.monotonic()

        def wait(state: RetryCallState) -> float:
            failure = _failure(state)
            return (failure.retry_after_s or 0.0) + _RANDOM.uniform(0.0, patience.bound_s(state.attempt_number))

        def stop(state: RetryCallState) -> bool:
            if state.attempt_number >= patience.attempts:
                return True
            if clock.monotonic() - began_s + state.upcoming_sleep > patience.total_s:
                return True
            return deadline is not None and state.upcoming_sleep > deadline.remaining_s(clock)

        def tell(state: RetryCallState) -> None:
            error = _failure(state).error
            _LOG.info("%s: attempt %d failed: %s", self.name, state.attempt_number, error.code)

        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.may_pass),
            stop=stop,
            wait=wait,
            sleep=self.sleep,
            before_sleep=tell,
            reraise=True,
        )


async def ask_each(ask: Callable[[Ask], Awaitable[Reply]], questions: Sequence[Ask]) -> list[Reply]:
    """Asks all at once; the answers in order. The first that fails ends all: the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(ask(question)) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _failure(state: RetryCallState) -> AttemptFailed:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, AttemptFailed)  # nothing else is tried again
    return error


@asynccontextmanager
async def _nothing() -> AsyncGenerator[None]:
    yield
