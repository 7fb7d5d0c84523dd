"""What the configuration says becomes the rules that replicas go by, and no key is in it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.autointerp_arguments import AutointerpArgs
from cluster.autointerp_rules import hold_s, rules_of
from core.autointerp.providers.endpoint import OPENROUTER
from core.autointerp.providers.pricing import Price
from core.errors import InvalidRequest, UrlRefused

VLLM = "https://vllm.example:8443/v1"


def args(**given: Any) -> AutointerpArgs:
    return AutointerpArgs.model_validate(given)


def test_by_default_openrouter_is_called_with_callers_keys() -> None:
    rules = rules_of(args())
    assert rules.base_url == OPENROUTER
    rules.urls.check(OPENROUTER)
    for url in ("https://elsewhere.example/v1", "http://127.0.0.1:8000/v1", "https://openrouter.ai:8443/v1"):
        with pytest.raises(UrlRefused):
            rules.urls.check(url)
    with pytest.raises(InvalidRequest):
        rules.own_key(OPENROUTER)


def test_a_key_comes_from_outside_of_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A_KEY", "sk-from-env")
    (tmp_path / "key").write_text("sk-from-file\n")
    given = args(
        providers=[
            {"key": {"env": "A_KEY"}, "daily_usd": 5, "daily_tokens": 1000},
            {"base_url": VLLM + "/", "key": {"file": str(tmp_path / "key")}},
        ]
    )
    rules = rules_of(given)
    own = rules.own_key(OPENROUTER)
    assert own.key.value == "sk-from-env"
    (account,) = own.accounts
    assert (account.budget.usd, account.budget.tokens, account.daily) == (5, 1000, True)
    assert rules.own_key(VLLM).key.value == "sk-from-file"
    rules.urls.check(VLLM)
    assert "sk-" not in repr(given) + repr(rules)


def test_a_variable_that_is_not_set_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    assert rules_of(args(providers=[{"key": {"env": "A_KEY"}}])).own_keys == ()


def test_prices_and_limits_are_found_by_name_and_then_by_place() -> None:
    models = {"a": {"prompt_usd": 1, "completion_usd": 2, "requests_per_minute": 60}, "*": {"in_flight": 7}}
    rules = rules_of(
        args(providers=[{"base_url": VLLM, "models": models}], local={"models": {"demo": {"in_flight": 3}}})
    )
    assert rules.terms_of(VLLM, "a").price == Price(1, 2)
    limits = rules.terms_of(VLLM, "b").limits
    assert limits is not None
    assert limits.in_flight == 7
    local = rules.terms_of("cluster", "demo").limits
    assert local is not None
    assert local.in_flight == 3
    assert rules.terms_of(OPENROUTER, "a").limits is None


def test_without_providers_nobody_outside_is_called() -> None:
    with pytest.raises(UrlRefused):
        rules_of(args(providers=[])).urls.check(OPENROUTER)


def test_no_attempt_outlives_its_ticket() -> None:
    assert hold_s(args(attempt_timeout_s=50)) > 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"providers": [{"key": "sk-plain"}]},
        {"providers": [{"key": {}}]},
        {"providers": [{"models": {"a": {"prompt_usd": 1}}}]},
        {"providers": [{}, {"base_url": OPENROUTER + "/"}]},
        {"explainer": {"min_replicas": 3, "max_replicas": 1}},
        {"embeder": {}},
    ],
)
def test_what_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        args(**wrong)


def test_folders_are_below_the_home_folder() -> None:
    given = args(caches=["/data/caches"])
    assert given.state_folder == Path.home() / ".rayscope" / "autointerp"
    assert given.cache_folders == [given.state_folder / "caches", Path("/data/caches")]
