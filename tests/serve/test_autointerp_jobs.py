"""Jobs on a running cluster: begun over HTTP, followed, paused, paid for, and found again by whoever asks."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray import serve

from cluster.autointerp_arguments import AutointerpArgs
from tests.ray_testing import deploy
from tests.serve.conftest import DEMO, RunningCluster
from tests.serve.probing import probe
from tests.serve.provider_thread import RunningProvider, running_provider
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Call

APP = "autointerp"
JOBS = "/v1/autointerp/jobs"
KEY = "sk-or-v1-a1b2c3d4e5f60718"
OWN_KEY = "sk-or-v1-0f1e2d3c4b5a6978"
LATENTS = [120, 129, 136]  # ones that fire in some windows of the cache and are silent in others
STAGES = ("explain/default", "score/default/detection")


def knowing(call: Call) -> str:
    """Explains all alike, and judges every other text to fit."""
    lines = [line for line in call.prompt.split("\n") if line.startswith("Example ")]
    return str([n % 2 for n in range(len(lines))]) if lines else "[EXPLANATION]: words"


@pytest.fixture(scope="module")
def provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture(autouse=True)
def knows(provider: RunningProvider) -> None:
    """It answers until a test makes it otherwise."""
    provider.becomes(knowing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("autointerp-jobs")


@pytest.fixture(scope="module")
def url(cluster: RunningCluster, provider: RunningProvider, folder: Path) -> Iterator[str]:
    from deployments.autointerp.app import build_autointerp_app

    (folder / "key").write_text(OWN_KEY)
    args = {
        "folder": str(folder),
        "allow_loopback": True,
        "providers": [
            {
                "base_url": provider.base_url,
                "key": {"file": str(folder / "key")},
                "models": {"priced": {"prompt_usd": 1.0, "completion_usd": 2.0}},
            }
        ],
        "attempts": 1,
        "jobs": {"workers": {"num_cpus": 0.5, "reader_cpus": 0.1, "threads": 1}},
    }
    deploy(build_autointerp_app, AutointerpArgs.model_validate(args), APP, None)
    yield cluster.url
    serve.delete(APP)


class Caller:
    """Asks the cluster for jobs."""

    def __init__(self, url: str, provider: RunningProvider) -> None:
        self._url = url
        self._base_url = provider.base_url
        self.client = httpx.Client(timeout=120)

    def body(self, **more: Any) -> dict[str, Any]:
        """Three latents of the demo, explained and judged."""
        wishes = {
            "modelId": DEMO,
            "saeIds": ["2-res-demo"],
            "latents": {"kind": "list", "indices": LATENTS},
            "explainers": [{"type": "default"}],
            "scorers": [{"type": "detection"}],
            "sampling": {"nTrain": 5, "nTest": 5, "nSilent": 5, "minExamples": 8},
            "cache": {"name": "demo", "make": {"demoDocuments": 400, "nTokens": 16384, "contextTokens": 64}},
            "model": "priced",
            "baseUrl": self._base_url,
        }
        return wishes | more

    def ask(self, verb: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.client.request(verb, f"{self._url}{JOBS}{path}", json=body, headers=headers)

    def begin(self, **more: Any) -> str:
        response = self.ask("POST", "", self.body(**more))
        assert response.status_code == 202, response.text
        job_id = response.json()["jobId"]
        assert response.headers["location"] == f"{JOBS}/{job_id}"
        return job_id

    def state(self, job_id: str) -> dict[str, Any]:
        response = self.ask("GET", f"/{job_id}")
        assert response.status_code == 200, response.text
        return response.json()

    def follow(self, job_id: str, after: int | None = None, until: str | None = None) -> list[dict[str, Any]]:
        """Events until the last, or until one whose status is wanted."""
        headers = {} if after is None else {"last-event-id": str(after)}
        seen: list[dict[str, Any]] = []
        with self.client.stream("GET", f"{self._url}{JOBS}/{job_id}/events", headers=headers) as response:
            assert response.status_code == 200
            event: dict[str, Any] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name in ("id", "event"):
                    event[name] = int(value) if name == "id" else value
                elif name == "data":
                    seen.append(event | {"data": json.loads(value)})
                    event = {}
                    if until is not None and seen[-1]["data"].get("status") == until:
                        break
        return seen

    def results(self, job_id: str, query: str = "") -> list[dict[str, Any]]:
        response = self.ask("GET", f"/{job_id}/results{query}")
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture(scope="module")
def caller(url: str, provider: RunningProvider) -> Iterator[Caller]:
    one = Caller(url, provider)
    with one.client:
        yield one


@pytest.fixture(scope="module")
def finished(caller: Caller, provider: RunningProvider) -> str:
    """A job that makes its cache and is done."""
    provider.becomes(knowing)
    job_id = caller.begin()
    assert caller.follow(job_id)[-1]["data"]["status"] == "succeeded"
    return job_id


def test_a_job_makes_its_cache_and_is_followed_until_it_is_done(caller: Caller, finished: str) -> None:
    events = caller.follow(finished)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert any(event["data"].get("caching") for event in events if event["event"] == "progress")
    kinds = Counter(event["event"] for event in events)
    assert (kinds["explanation"], kinds["score"], kinds["done"]) == (3, 3, 1)
    explained = next(event["data"] for event in events if event["event"] == "explanation")
    assert (explained["explanation"], explained["stage"]) == ("words", "explain/default")
    state = caller.state(finished)
    assert (state["status"], state["total"], state["done"], state["failed"]) == ("succeeded", 6, 6, 0)
    assert state["usage"]["calls"] == 3 + 3 * 2
    assert state["spentTokens"] == state["usage"]["promptTokens"] + state["usage"]["completionTokens"] > 0
    assert state["spentUsd"] == pytest.approx(state["usage"]["costUsd"])


def test_who_comes_back_goes_on_after_the_event_that_it_saw_last(caller: Caller, finished: str) -> None:
    events = caller.follow(finished)
    for after in (1, len(events) // 2, len(events)):
        assert caller.follow(finished, after) == events[after:]
    refused = caller.ask("GET", f"/{finished}/events", **{"last-event-id": "x"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")


def test_results_are_lines_by_cursor_and_a_table(caller: Caller, finished: str) -> None:
    from pyarrow import parquet

    lines = caller.results(finished)
    assert Counter(line["stage"] for line in lines) == dict.fromkeys(STAGES, 3)
    assert all(0 <= line["value"] <= 1 for line in lines if line["kind"] == "score")
    first = caller.results(finished, "?limit=2")
    assert first == lines[:2]
    assert caller.results(finished, f"?cursor={first[-1]['cursor']}") == lines[2:]
    table: Any = parquet.read_table(io.BytesIO(caller.ask("GET", f"/{finished}/results?format=parquet").content))
    assert table.column("cursor").to_pylist() == [line["cursor"] for line in lines]
    assert table.column("explanation").to_pylist() == [line["explanation"] for line in lines]


def test_the_same_request_with_the_same_key_is_the_same_job(caller: Caller, finished: str) -> None:
    header = {"idempotency-key": "a-key-of-mine"}
    first, again = (caller.ask("POST", "", caller.body(), **header).json()["jobId"] for _ in range(2))
    assert first == again
    other = caller.ask("POST", "", caller.body(seed=3), **header)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    # What was answered before is not paid for again.
    assert caller.follow(first)[-1]["data"]["status"] == "succeeded"
    usage = caller.state(first)["usage"]
    assert (usage["calls"], usage["cached"]) == (0, 9)


def test_an_estimate_is_what_the_job_asks(caller: Caller, finished: str, provider: RunningProvider) -> None:
    found = caller.ask("POST", "/estimate", caller.body()).json()
    assert (found["latents"], found["units"], found["calls"]) == (3, 6, 9)
    state = caller.state(finished)
    assert state["usage"]["promptTokens"] < found["promptTokens"] < 20 * state["usage"]["promptTokens"]
    assert 0 < found["usd"] < found["mostUsd"]
    assert found["sampled"] == 3
    made_up = caller.ask("POST", "/estimate", caller.body(cache=caller.body()["cache"] | {"name": "another"})).json()
    assert (made_up["sampled"], made_up["calls"]) == (0, 9)


def test_a_budget_pauses_a_job_and_more_of_it_lets_it_go_on(caller: Caller, finished: str) -> None:
    job_id = caller.begin(maxTokensTotal=700, force=True, concurrency=1)
    paused = caller.follow(job_id, until="paused_budget")[-1]
    assert paused["event"] == "budget"
    state = caller.state(job_id)
    assert state["spentTokens"] <= 700
    assert "700" in state["reason"]
    assert caller.ask("PATCH", f"/{job_id}", {"maxTokensTotal": 1_000_000}).json()["maxTokensTotal"] == 1_000_000
    assert caller.ask("POST", f"/{job_id}/resume").status_code == 200
    assert caller.follow(job_id, paused["id"])[-1]["data"]["status"] == "succeeded"
    assert {line["attempts"] for line in caller.results(job_id)} == {1}


def test_a_bad_key_pauses_a_job_and_scores_nothing(
    caller: Caller, finished: str, provider: RunningProvider, folder: Path
) -> None:
    provider.becomes(knowing, lambda call: fake.status(401, f"Incorrect API key provided: {KEY}"))
    job_id = caller.begin(openrouterKey=KEY, force=True)
    caller.follow(job_id, until="paused_credits")
    assert caller.results(job_id) == []
    provider.becomes(knowing)
    assert caller.ask("POST", f"/{job_id}/resume").status_code == 200
    assert caller.follow(job_id)[-1]["data"]["status"] == "succeeded"
    told = caller.ask("GET", f"/{job_id}").text + str(caller.follow(job_id)) + str(caller.results(job_id))
    written = b"".join(file.read_bytes() for file in folder.glob("*.sqlite*"))
    assert KEY not in told
    assert KEY.encode() not in written


def test_a_job_is_paused_resumed_and_cancelled(caller: Caller, finished: str, provider: RunningProvider) -> None:
    provider.becomes(knowing, lambda call: fake.hangs())
    job_id = caller.begin(force=True, concurrency=1)
    provider.until(lambda it: it.in_flight > 0)
    assert caller.ask("POST", f"/{job_id}/pause").json()["status"] == "paused"
    assert caller.ask("POST", f"/{job_id}/pause").status_code == 409
    assert caller.ask("POST", f"/{job_id}/resume").json()["status"] == "queued"
    assert caller.ask("POST", f"/{job_id}/cancel").json()["status"] == "cancelled"
    assert caller.ask("POST", f"/{job_id}/resume").status_code == 409
    provider.until(lambda it: it.in_flight == 0)  # nobody waits for an answer any more
    assert caller.follow(job_id)[-1]["event"] == "done"


def test_jobs_are_listed_and_deleted(caller: Caller, finished: str) -> None:
    job_id = caller.begin()
    caller.follow(job_id)
    listed = caller.ask("GET", "?limit=1").json()
    assert [job["jobId"] for job in listed["jobs"]] == [job_id]
    older = caller.ask("GET", f"?before={listed['next']}").json()["jobs"]
    assert finished in [job["jobId"] for job in older]
    assert caller.ask("DELETE", f"/{job_id}").json() == {"jobId": job_id, "deleted": True}
    for verb, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/results"), ("POST", "/pause")):
        gone = caller.ask(verb, f"/{job_id}{path}")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found"), (verb, path)


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"explainers": [{"type": "nobody"}]}, 404),
        ({"explainers": [], "scorers": []}, 400),
        ({"model": None}, 400),
        ({"saeIds": ["nonsense"]}, 400),
        ({"latents": {"kind": "list"}}, 400),
        ({"cache": {"name": "../elsewhere"}}, 400),
        ({"cache": {"name": "x", "make": {"nTokens": 10_000}}}, 400),
        ({"cache": {"name": "x", "make": {"nTokens": 10_000, "files": ["/etc/passwd"]}}}, 400),
        ({"cache": {"name": "x", "make": {"nTokens": 10_000, "dataset": {"repo": "/etc"}}}}, 422),
        ({"budgetUsd": 0}, 422),
        ({"concurrency": 0}, 422),
    ],
)
def test_a_job_that_can_never_be_done_is_refused(caller: Caller, wrong: dict[str, Any], status: int) -> None:
    refused = caller.ask("POST", "", caller.body(**wrong))
    assert refused.status_code == status, refused.text
    assert refused.json()["error"]


def test_a_job_that_can_not_begin_says_why(caller: Caller) -> None:
    job_id = caller.begin(cache={"name": "nobody-made-it"})
    last = caller.follow(job_id)[-1]
    assert last["data"]["status"] == "failed"
    assert "nobody-made-it" in last["data"]["reason"]


def test_no_input_makes_a_server_error(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json", timeout=60).json()
    assert probe(url, document, lambda path: path.startswith(JOBS), 15)
