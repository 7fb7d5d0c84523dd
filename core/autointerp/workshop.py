"""Workshop: does the tasks of `core.autointerp.tasks` in this process.

    ModelChoice -> endpoint -> ProviderModel(gate, errand, ledger, price) -> CachedModel(replies) -> explainer or scorer

It keeps what outlives a task: the connection, endpoints (which learn what their models take) and gates, one for each
model at a place with a key. What several processes must agree on is given to it behind protocols (`Gates`, `Ledger`,
`ReplyCache`, `Embedder`), so it is the same in a command, in a replica of a cluster and in a test.

A key of the operator's own goes only to the address that it was configured for, and what it pays is charged to its
account. Whoever brings a key pays by it.

Whatever a task waits for has its deadline; a second limit around it all would break into its cleaning up.

Deliberately not here: which features are done, in what order and how many at once (`core.autointerp.jobs`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import httpx

from core.autointerp.embedder import Embedder
from core.autointerp.language_model import LanguageModel
from core.autointerp.prompts import load_prompts
from core.autointerp.providers.cache import CachedModel, Flights, MemoryReplies, ReplyCache
from core.autointerp.providers.endpoint import OPENROUTER, Endpoint
from core.autointerp.providers.gate import Gate
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, Ledger, MemoryLedger
from core.autointerp.providers.model import Errand, Patience, ProviderModel
from core.autointerp.providers.openai import OpenAIEndpoint, open_client
from core.autointerp.providers.pricing import Price
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.registry import explainer_type, scorer_type
from core.autointerp.results import Explanation, Score
from core.autointerp.subject import Subject
from core.autointerp.tasks import ExplainTask, ModelChoice, Payer, ScoreTask
from core.autointerp.types import Means
from core.deadline import Deadline
from core.errors import InvalidRequest, ModelNotFound
from core.outbound_urls import UrlPolicy

_KEPT_ENDPOINTS: Final = 1024


class Gates(Protocol):
    """The gates of all models."""

    def gate(self, base_url: str, key: str, model: str, limits: RateLimits | None = None) -> Gate:
        """The gate of a model at a place with a key, named by its fingerprint."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What is known of a model at a place.

    Attributes:
        price: What it costs where the provider does not say.
        limits: How fast it may be asked; None: as any other.
    """

    price: Price | None = None
    limits: RateLimits | None = None


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key of the operator's.

    Attributes:
        base_url: The only address that it is sent to.
        key: It.
        accounts: What is charged for it.
    """

    base_url: str
    key: ProviderKey = field(repr=False)
    accounts: tuple[Account, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator says about providers.

    Attributes:
        base_url: Where a model outside is, unless a task says otherwise.
        urls: Which addresses are called.
        own_keys: Are used where a task brings no key; the first for an address counts.
        terms: What is known of models, by place and name; the name `*` stands for all others of a place.
        patience: How long a provider is tried.
    """

    base_url: str = OPENROUTER
    urls: UrlPolicy = field(default_factory=lambda: UrlPolicy(hosts=(httpx.URL(OPENROUTER).host,)))
    own_keys: tuple[OwnKey, ...] = ()
    terms: Mapping[tuple[str, str], Terms] = field(default_factory=dict[tuple[str, str], Terms])
    patience: Patience = field(default_factory=Patience)

    def terms_of(self, place: str, model: str) -> Terms:
        """What is known of a model."""
        return self.terms.get((place, model)) or self.terms.get((place, "*")) or Terms()

    def own_key(self, base_url: str) -> OwnKey:
        """The operator's key for an address.

        Raises:
            InvalidRequest: There is none.
        """
        for own in self.own_keys:
            if own.base_url.rstrip("/") == base_url:
                return own
        raise InvalidRequest("No key for the provider was given.", "Send one; there is none of our own for it.")


@dataclass(frozen=True, slots=True)
class Books:
    """What all that ask the same providers must agree on; in memory unless given.

    Attributes:
        gates: How fast models are asked.
        ledger: Counts what is spent.
        replies: Keeps answers.
    """

    gates: Gates = field(default_factory=lambda: RateGates(RateLimits()))
    ledger: Ledger = field(default_factory=MemoryLedger)
    replies: ReplyCache = field(default_factory=MemoryReplies)


class Workshop:
    """`Workers` in this process, to be closed with `aclose`.

    Args:
        rules: What the operator says.
        books: Shared with others, or this workshop's own.
        local: Finds a model of this cluster by name; None: there are none.
        embedder: Embeds; None: there is none.
        subject: The models whose features are explained, to be steered; None: there are none.
        transport: Sends requests, instead of one that asks the rules.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        books: Books | None = None,
        *,
        local: Callable[[str], Endpoint] | None = None,
        embedder: Embedder | None = None,
        subject: Subject | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._rules = rules or Rules()
        self._books = books or Books()
        self._local = local
        self._embedder = embedder
        self._subject = subject
        self._client = open_client(self._rules.urls, transport)
        self._endpoints: OrderedDict[tuple[str, str, str], Endpoint] = OrderedDict()
        self._flights = Flights()

    async def prepare(self) -> None:
        """Loads what the first task would wait for, ten seconds in a thread."""
        await asyncio.to_thread(load_prompts)

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        """See `Workers`."""
        deadline.check()
        explainer = explainer_type(task.type).build(task.parameters, self._means(task.choice, task.payer, deadline))
        return await explainer.explain(task.record)

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        """See `Workers`."""
        deadline.check()
        scorer = scorer_type(task.type).build(task.parameters, self._means(task.choice, task.payer, deadline))
        return await scorer.score(task.record, task.explanation)

    def model(self, choice: ModelChoice, payer: Payer, deadline: Deadline) -> LanguageModel:
        """A language model, asked on somebody's behalf until a deadline.

        Raises:
            InvalidRequest: No key is to be had.
            UrlRefused: Its address is not one that is called.
            NotFound: This cluster does not serve it.
        """
        endpoint, fingerprint, accounts = self._endpoint(choice)
        terms = self._rules.terms_of(endpoint.place, endpoint.name)
        asked = ProviderModel(
            endpoint,
            self._books.gates.gate(endpoint.place, fingerprint, endpoint.name, terms.limits),
            Errand(payer.owner, (*payer.accounts, *accounts), deadline=deadline),
            self._books.ledger,
            terms.price,
            self._rules.patience,
        )
        return CachedModel(asked, self._books.replies, endpoint.place, payer.force, self._flights)

    async def aclose(self) -> None:
        """Closes connections."""
        await self._client.aclose()

    def _means(self, choice: ModelChoice | None, payer: Payer, deadline: Deadline) -> Means:
        model = None if choice is None else self.model(choice, payer, deadline)
        return Means(deadline, model, self._embedder, self._subject)

    def _endpoint(self, choice: ModelChoice) -> tuple[Endpoint, str, tuple[Account, ...]]:
        """An endpoint, the fingerprint of the key that it sends, and what is charged for that key."""
        if choice.provider == "local":
            return self._kept(("local", "", choice.model), lambda: self._local_endpoint(choice.model)), "", ()
        base_url = (choice.base_url or self._rules.base_url).rstrip("/")
        self._rules.urls.check(base_url)
        own = OwnKey(base_url, choice.key) if choice.key is not None else self._rules.own_key(base_url)
        endpoint = self._kept(
            (base_url, own.key.fingerprint, choice.model),
            lambda: OpenAIEndpoint(self._client, base_url, choice.model, own.key),
        )
        return endpoint, own.key.fingerprint, own.accounts

    def _local_endpoint(self, model: str) -> Endpoint:
        if self._local is None:
            raise ModelNotFound(f"There is no model '{model}' here.", "No model is served here; name a provider.")
        return self._local(model)

    def _kept(self, name: tuple[str, str, str], make: Callable[[], Endpoint]) -> Endpoint:
        if name not in self._endpoints:
            self._endpoints[name] = make()
        self._endpoints.move_to_end(name)
        if len(self._endpoints) > _KEPT_ENDPOINTS:
            self._endpoints.popitem(last=False)
        return self._endpoints[name]
