"""Every way Rayscope refuses or fails a request, with the HTTP status each one deserves.

An error crosses process borders: a Runner raises it, Ray pickles it, the Gateway turns it into a response. Exceptions
pickle by their positional arguments, so every class here takes `(message, hint, ...)` by position and nothing else.

    client's mistake     InvalidRequest 400 · UrlRefused 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 ·
                         Conflict 409 · TooLarge 413
    the cluster is busy  Overloaded 429 · DeadlineExceeded 504 · Unavailable 503
    somebody else's      UploadFailed 502 · ProviderFailed 502 · ProviderTimedOut 504 · ProviderBusy 429 ·
                         ProviderAuth 400 · ProviderCredits 402 · ProviderRejected 400 · ModelNotFound 404 ·
                         PromptTooLong 400 · Refused 422
    enough was spent     BudgetReached 402
    our bug              RayscopeError 500

The message says what happened, `hint` what to do about it. The mapping to HTTP bodies is the Gateway's, not ours.
"""

from typing import ClassVar


class RayscopeError(Exception):
    """Base of all errors that reach a client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(hint)  # tracebacks in logs show it too

    def __str__(self) -> str:
        return self.message

    @property
    def text(self) -> str:
        """The message with the hint behind it, for shapes that have one field for both."""
        return self.message if self.hint is None else f"{self.message.rstrip('.')}. {self.hint}"


class InvalidRequest(RayscopeError):
    """The request can never succeed as it is written."""

    status = 400
    code = "invalid_request"


class UrlRefused(InvalidRequest):
    """The request names a URL or a place in storage that this cluster does not call."""

    code = "url_refused"


class Unauthorized(RayscopeError):
    """The secret is missing or wrong."""

    status = 401
    code = "unauthorized"


class Forbidden(RayscopeError):
    """The secret is wrong, on routes whose clients know the difference from a missing one."""

    status = 403
    code = "forbidden"


class NotFound(RayscopeError):
    """The named model, source set, source or route is not served here."""

    status = 404
    code = "not_found"


class Conflict(RayscopeError):
    """The request is well formed, and contradicts what was asked for before."""

    status = 409
    code = "conflict"


class TooLarge(RayscopeError):
    """The request needs more memory than this cluster may ever give to one request."""

    status = 413
    code = "too_large"


class Overloaded(RayscopeError):
    """Every queue that could take the request is full.

    Attributes:
        retry_after_s: Seconds after which a retry has a fair chance, from measured queue time.
    """

    status = 429
    code = "overloaded"

    def __init__(self, message: str, hint: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, retry_after_s)
        self.retry_after_s = retry_after_s


class Unavailable(RayscopeError):
    """What is needed to answer exists but is not up at the moment."""

    status = 503
    code = "unavailable"


class DeadlineExceeded(RayscopeError):
    """The request's deadline passed before it was answered."""

    status = 504
    code = "deadline_exceeded"


class UploadFailed(RayscopeError):
    """The storage that a result was to go to did not take it.

    Attributes:
        storage_status: HTTP status that the storage answered; None if it did not answer.
    """

    status = 502
    code = "upload_failed"

    def __init__(self, message: str, hint: str | None = None, storage_status: int | None = None) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, storage_status)
        self.storage_status = storage_status


class ProviderFailed(RayscopeError):
    """The provider of a language model failed, or answered what can not be read, however often it was asked."""

    status = 502
    code = "provider_failed"


class ProviderTimedOut(RayscopeError):
    """The provider of a language model took too long, however often it was asked."""

    status = 504
    code = "provider_timeout"


class ProviderBusy(Overloaded):
    """The provider of a language model takes no more requests with this key for now."""

    code = "provider_busy"


class ProviderAuth(RayscopeError):
    """The provider of a language model refuses the key. Not a 401: that is about this cluster's own secret."""

    status = 400
    code = "provider_auth"


class ProviderCredits(RayscopeError):
    """The account behind the key at the provider of a language model has no credit left."""

    status = 402
    code = "provider_credits"


class ProviderRejected(InvalidRequest):
    """The provider of a language model does not take such a request, or does not give what it asks for."""

    code = "provider_rejected"


class ModelNotFound(NotFound):
    """The provider does not have the named language model."""

    code = "model_not_found"


class PromptTooLong(InvalidRequest):
    """The prompt is longer than the language model reads."""

    code = "prompt_too_long"


class Refused(RayscopeError):
    """The language model gave no answer: it declined, or its provider withheld what it wrote."""

    status = 422
    code = "refused"


class BudgetReached(RayscopeError):
    """The next call to a language model could cost more than the budget has left."""

    status = 402
    code = "budget_reached"
