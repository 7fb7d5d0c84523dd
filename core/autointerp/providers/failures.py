"""What an attempt's failure means: which error it is, and whether another attempt may help.

    408 409 425 429 5xx, timeouts, broken connections, unreadable answers   may pass: tried again
    401 403                     ProviderAuth        the key is wrong
    402                         ProviderCredits     nobody pays
    404                         ModelNotFound
    400 413 about length        PromptTooLong
    a refusal, a filter         Refused
    any other                   ProviderRejected

Two answers are read by what they say rather than by their number, since no other attempt could help: OpenAI's 429
`insufficient_quota` is about money, and OpenRouter's 403 with reasons is its moderation's.

What the provider said is part of the message, shortened and without the key.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from core.autointerp.language_model import Usage
from core.errors import (
    ModelNotFound,
    PromptTooLong,
    ProviderAuth,
    ProviderBusy,
    ProviderCredits,
    ProviderFailed,
    ProviderRejected,
    ProviderTimedOut,
    RayscopeError,
    Refused,
)

_LONGEST: Final = 300
_MAY_PASS: Final = frozenset({408, 409, 425, 429})
_LENGTH: Final = re.compile(
    r"context.?(length|window)|maximum context|max_model_len|(prompt|input|request) is too (long|large)"
    r"|too many (input )?tokens|reduce the length|longer than the maximum",
    re.IGNORECASE,
)
TRY_LATER: Final = "Try again later, or name another provider."


@dataclass(frozen=True, slots=True)
class Said:
    """What a provider said about a failure.

    Attributes:
        message: In its words, without the key; may be empty.
        code: Its code for it, in lower case; may be empty.
        param: Which part of the request it is about, if it told.
        moderated: Whether it gives the reasons of a moderation.
    """

    message: str = ""
    code: str = ""
    param: str = ""
    moderated: bool = False

    @classmethod
    def of(cls, body: Any) -> "Said":
        """Reads a JSON body: `{"error": {...}}`, `{"error": "..."}`, or vLLM's flat one."""
        inner = body.get("error", body) if isinstance(body, Mapping) else body
        if isinstance(inner, str):
            return cls(inner)
        if not isinstance(inner, Mapping):
            return cls()
        message = inner.get("message", inner.get("detail"))
        metadata = inner.get("metadata")
        return cls(
            message if isinstance(message, str) else "",
            str(inner.get("code") or inner.get("type") or "").lower(),
            str(inner.get("param") or ""),
            isinstance(metadata, Mapping) and bool(metadata.get("reasons")),
        )

    def mapped(self, show: Callable[[str], str]) -> "Said":
        """The same with texts as `show` makes them."""
        return Said(show(self.message), show(self.code), show(self.param), self.moderated)


class AttemptFailed(Exception):
    """One attempt failed. Never leaves this package: callers see `error`.

    Attributes:
        error: What it is if no other attempt is made.
        may_pass: Whether another attempt may help.
        throttled: Whether there were too many requests.
        retry_after_s: Seconds to wait, if the provider told.
        usage: What it cost all the same.
        said: What the provider said.
    """

    def __init__(
        self,
        error: RayscopeError,
        *,
        may_pass: bool = False,
        throttled: bool = False,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        said: Said | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.may_pass = may_pass
        self.throttled = throttled
        self.retry_after_s = retry_after_s
        self.usage = usage
        self.said = said or Said()


def of_status(model: str, status: int, said: Said, retry_after_s: float | None = None) -> AttemptFailed:
    """The failure that an HTTP status is."""
    words = _told(said.message)
    if status == 402 or said.code == "insufficient_quota":
        hint = "Add credit at the provider, or use another key."
        return AttemptFailed(
            ProviderCredits(f"The account behind the provider key has no credit{words}", hint), said=said
        )
    if status in _MAY_PASS or status >= 500:
        return AttemptFailed(
            _passing(model, status, words, retry_after_s),
            may_pass=True,
            throttled=status == 429,
            retry_after_s=retry_after_s,
            said=said,
        )
    return AttemptFailed(_final(model, status, said, words), said=said)


def timed_out(model: str, seconds: float) -> AttemptFailed:
    """The failure of an attempt that took too long."""
    said = f"The provider of {model} did not answer within {seconds:g} seconds."
    return AttemptFailed(ProviderTimedOut(said, TRY_LATER), may_pass=True)


def broken(model: str, reason: str) -> AttemptFailed:
    """The failure of an attempt without a readable answer."""
    return AttemptFailed(ProviderFailed(f"The provider of {model} failed: {reason}.", TRY_LATER), may_pass=True)


def refused(model: str, reason: str, usage: Usage | None = None) -> AttemptFailed:
    """The failure of an attempt that the model answered with nothing; it may cost."""
    hint = "Another model may answer; one that thinks before it writes may need a larger max_tokens."
    return AttemptFailed(Refused(f"{model} gave no answer: {reason}.", hint), usage=usage)


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """Reads `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None  # false for NaN too


def shortened(words: str) -> str:
    """A text on one line, of 300 characters at most."""
    line = " ".join(words.split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _passing(model: str, status: int, words: str, retry_after_s: float | None) -> RayscopeError:
    if status == 429:
        message = f"The provider of {model} takes no more requests for now{words}"
        wait_s = 1.0 if retry_after_s is None else retry_after_s
        return ProviderBusy(message, "Ask for less at once, or try again later.", wait_s)
    if status in (408, 504):
        return ProviderTimedOut(f"The provider of {model} answered {status}{words}", TRY_LATER)
    return ProviderFailed(f"The provider of {model} answered {status}{words}", TRY_LATER)


def _final(model: str, status: int, said: Said, words: str) -> RayscopeError:
    if said.moderated or "content_filter" in said.code or "content_policy" in said.code:
        return Refused(f"The provider of {model} refuses the prompt{words}", "Another model or provider may answer.")
    if status in (401, 403):
        return ProviderAuth(f"The provider of {model} refuses the key ({status}){words}", "Check the provider key.")
    if status == 404:
        return ModelNotFound(f"The provider does not have {model}{words}", "Check the model's name and the URL.")
    if status == 413 or said.code == "context_length_exceeded" or (status == 400 and _LENGTH.search(said.message)):
        hint = "Give fewer or shorter examples, or name a model that reads more."
        return PromptTooLong(f"The prompt is too long for {model}{words}", hint)
    return ProviderRejected(f"The provider of {model} does not take the request ({status}){words}")


def _told(message: str) -> str:
    words = shortened(message)
    return f": {words}" if words else "."
