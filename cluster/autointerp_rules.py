"""An application's arguments as the rules of `core.autointerp.workshop`. Reads keys: for replicas, not for the door."""

from collections.abc import Mapping
from typing import Final

import httpx

from cluster.autointerp_arguments import AutointerpArgs, LanguageModelArgs, ProviderArgs
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, Budget
from core.autointerp.providers.model import Patience
from core.autointerp.providers.pricing import Price
from core.autointerp.providers.rate import RateLimits
from core.autointerp.workshop import OwnKey, Rules, Terms
from core.outbound_urls import UrlPolicy

LOCAL_PLACE: Final = "cluster"
"""Where models of this cluster are."""
_SLACK_S: Final = 30.0
_NO_HOST: Final = ("",)  # an empty list would be every host


def rules_of(args: AutointerpArgs) -> Rules:
    """The rules.

    Raises:
        ValueError: A key's file can not be read.
        InvalidRequest: A key has characters that no key has.
    """
    addresses = [httpx.URL(provider.base_url) for provider in args.providers]
    hosts = (*(address.host for address in addresses), *args.allowed_hosts)
    ports = (443, *(address.port for address in addresses if address.port is not None))
    terms = _terms(LOCAL_PLACE, args.local.models)
    for provider in args.providers:
        terms |= _terms(provider.base_url.rstrip("/"), provider.models)
    return Rules(
        base_url=args.default_base_url,
        urls=UrlPolicy(hosts or _NO_HOST, ports, loopback=args.allow_loopback),
        own_keys=tuple(own for own in map(_own_key, args.providers) if own is not None),
        terms=terms,
        patience=Patience(args.attempts, args.retry_s, args.attempt_timeout_s),
    )


def hold_s(args: AutointerpArgs) -> float:
    """After how many seconds no attempt can still be under way."""
    return args.attempt_timeout_s + _SLACK_S


def _own_key(provider: ProviderArgs) -> OwnKey | None:
    value = None if provider.key is None else provider.key.read()
    if value is None:
        return None
    base_url = provider.base_url.rstrip("/")
    account = Account(f"key/{base_url}", Budget(provider.daily_usd, provider.daily_tokens), daily=True)
    return OwnKey(base_url, ProviderKey(value), (account,))


def _terms(place: str, models: Mapping[str, LanguageModelArgs]) -> dict[tuple[str, str], Terms]:
    return {(place, name): Terms(_price(model), _limits(model)) for name, model in models.items()}


def _price(model: LanguageModelArgs) -> Price | None:
    if model.prompt_usd is None or model.completion_usd is None:
        return None
    return Price(model.prompt_usd, model.completion_usd)


def _limits(model: LanguageModelArgs) -> RateLimits:
    return RateLimits(model.requests_per_minute, model.tokens_per_minute, model.in_flight)
