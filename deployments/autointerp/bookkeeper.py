"""Bookkeeper: one replica keeps what all others must agree on: money, answers, and how fast each provider is asked."""

import asyncio
from typing import Any

from cluster.autointerp_arguments import AutointerpArgs
from cluster.autointerp_rules import hold_s, rules_of
from core.autointerp.bookkeeping import Bookkeeping, Note
from core.autointerp.description import AutointerpDescription
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.providers.cache_file import ReplyFile
from core.autointerp.providers.ledger import Account, Balance, MemoryLedger
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.providers.turnstile import GateName, Turnstile


class Bookkeeper:
    """Thin: a `Bookkeeping` over files. Started anew, it goes on from them."""

    async def __init__(self, args: AutointerpArgs) -> None:
        self._ledger, self._charges, self._replies = await asyncio.to_thread(_open, args)
        turnstile = Turnstile(RateGates(RateLimits(in_flight=args.in_flight)), hold_s(args))
        self._description = _description(args)
        self._books = Bookkeeping(self._ledger, self._replies, turnstile, hold_s(args))

    async def describe(self) -> AutointerpDescription:
        """What the application has."""
        return self._description

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str) -> None:
        """See `Turnstile.admit`."""
        await self._books.admit(ticket, name, tokens, owner)

    async def post(self, notes: list[Note]) -> list[Any]:
        """See `Bookkeeping.post`."""
        return await self._books.post(notes)

    async def balance(self, account: Account) -> Balance:
        """What an account was charged with."""
        return self._ledger.balance(account)

    async def __del__(self) -> None:
        """Closes the files."""
        await self._books.aclose()
        await asyncio.to_thread(self._replies.close)
        await asyncio.to_thread(self._charges.close)


def _open(args: AutointerpArgs) -> tuple[MemoryLedger, ChargeFile, ReplyFile]:
    folder = args.state_folder
    folder.mkdir(parents=True, exist_ok=True)
    charges = ChargeFile(folder / "charges.sqlite")
    ledger = MemoryLedger(charges)
    ledger.restore(charges.charges())
    return ledger, charges, ReplyFile(folder / "replies.sqlite", args.kept_replies)


def _description(args: AutointerpArgs) -> AutointerpDescription:
    return AutointerpDescription(
        base_url=args.default_base_url,
        own_keys=tuple(own.base_url for own in rules_of(args).own_keys),
        embedding_model=None if args.embedder is None else args.embedder.model,
        local_models=None if args.local.names is None else tuple(args.local.names),
    )
