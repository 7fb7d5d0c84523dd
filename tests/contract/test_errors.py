"""Errors survive the way from a Runner to the Gateway: pickled with their type, their words and their advice."""

import copy
import pickle
from collections.abc import Iterator

import pytest

from core import errors
from core.errors import Overloaded, RayscopeError, UploadFailed

STATUSES = {
    "RayscopeError": (500, "internal"),
    "InvalidRequest": (400, "invalid_request"),
    "UrlRefused": (400, "url_refused"),
    "Unauthorized": (401, "unauthorized"),
    "Forbidden": (403, "forbidden"),
    "NotFound": (404, "not_found"),
    "Conflict": (409, "conflict"),
    "TooLarge": (413, "too_large"),
    "Overloaded": (429, "overloaded"),
    "Unavailable": (503, "unavailable"),
    "DeadlineExceeded": (504, "deadline_exceeded"),
    "UploadFailed": (502, "upload_failed"),
    "ProviderFailed": (502, "provider_failed"),
    "ProviderTimedOut": (504, "provider_timeout"),
    "ProviderBusy": (429, "provider_busy"),
    "ProviderAuth": (400, "provider_auth"),
    "ProviderCredits": (402, "provider_credits"),
    "ProviderRejected": (400, "provider_rejected"),
    "ModelNotFound": (404, "model_not_found"),
    "PromptTooLong": (400, "prompt_too_long"),
    "Refused": (422, "refused"),
    "BudgetReached": (402, "budget_reached"),
}


def subclasses(cls: type[RayscopeError]) -> Iterator[type[RayscopeError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


ALL = sorted(set(subclasses(RayscopeError)), key=lambda cls: cls.__name__)
every = pytest.mark.parametrize("cls", ALL)


def test_every_error_of_the_module_is_tested_here() -> None:
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == {cls.__name__ for cls in ALL} == STATUSES.keys()


@every
@pytest.mark.parametrize("hint", [None, "Send a shorter prompt."])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_the_same_on_the_other_side(cls: type[RayscopeError], hint: str | None, protocol: int) -> None:
    error = cls("Text too long: 41 tokens, max is 40", hint)
    returned = pickle.loads(pickle.dumps(error, protocol))
    assert type(returned) is cls
    assert (returned.message, returned.hint, str(returned)) == (error.message, hint, error.message)
    assert getattr(returned, "__notes__", []) == ([hint] if hint else [])
    assert (returned.status, returned.code) == (error.status, error.code)
    assert returned.args == error.args
    assert vars(returned) == vars(error)


@every
def test_an_error_without_advice_needs_none(cls: type[RayscopeError]) -> None:
    returned = pickle.loads(pickle.dumps(cls("It happened.")))
    assert (returned.message, returned.hint) == ("It happened.", None)


def test_the_time_to_wait_arrives_too() -> None:
    returned = pickle.loads(pickle.dumps(Overloaded("Busy.", "Retry.", 7.5)))
    assert (returned.message, returned.hint, returned.retry_after_s) == ("Busy.", "Retry.", 7.5)
    assert pickle.loads(pickle.dumps(Overloaded("Busy."))).retry_after_s == 1.0


def test_what_the_storage_answered_arrives_too() -> None:
    returned = pickle.loads(pickle.dumps(UploadFailed("Refused.", "Sign anew.", 403)))
    assert (returned.message, returned.hint, returned.storage_status) == ("Refused.", "Sign anew.", 403)
    assert pickle.loads(pickle.dumps(UploadFailed("Gone."))).storage_status is None


@every
def test_an_error_is_copied_whole(cls: type[RayscopeError]) -> None:
    error = cls("It happened.", "Do this.")
    for twin in (copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert vars(twin) == vars(error)


@every
def test_ray_itself_brings_an_error_back_with_its_type(cls: type[RayscopeError]) -> None:
    """A Runner's error reaches the Gateway inside Ray's own, made of the cause's arguments."""
    from ray.exceptions import RayTaskError

    cause = cls("It happened.", "Do this.")
    carried = pickle.loads(pickle.dumps(RayTaskError("ask", "Traceback", cause))).as_instanceof_cause()
    assert isinstance(carried, cls)
    assert (carried.cause.message, carried.cause.hint) == ("It happened.", "Do this.")


@every
def test_every_error_has_its_own_status_and_code(cls: type[RayscopeError]) -> None:
    assert (cls.status, cls.code) == STATUSES[cls.__name__]


@every
def test_every_error_can_be_caught_as_rayscopes(cls: type[RayscopeError]) -> None:
    with pytest.raises(RayscopeError, match="It happened"):
        raise cls("It happened.")
