"""A run on a cluster, over HTTP: the body it sends is the job it means, and it is followed whatever breaks."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from cluster.autointerp_flags import RunFlags, job_of, making_of, sources_of
from cluster.autointerp_follow import Cluster, body_of, run_there, spec_there
from cluster.autointerp_progress import JobProgress
from cluster.autointerp_run import shares_of
from core.autointerp.jobs.choices import CacheChoice
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.report.rows import Line, report_of
from core.errors import InvalidRequest, RayscopeError, Unavailable
from core.exchange.autointerp_jobs import job_spec
from core.wire.autointerp_jobs import JobChangeRequest, JobRequest, JobResultLine

DEMO = RunFlags("rayscope-demo", "res-demo", hookpoints=("1",), max_latents=3)
URL = "http://cluster.test"
KEY = "sk-or-very-secret-0123456789"


def result(cursor: int, kind: str, **changes: Any) -> dict[str, Any]:
    """A line of results as a cluster sends it."""
    fields: dict[str, Any] = dict.fromkeys(JobResultLine.model_fields)
    fields |= {"cursor": cursor, "model": "rayscope-demo", "source": "1-res-demo", "index": cursor, "kind": kind}
    fields |= {"stage": "", "state": "done", "attempts": 1, "at_s": 0.0, "explainer": "default"}
    return json.loads(JobResultLine.model_validate(fields | changes).model_dump_json(by_alias=True))


LINES = [
    result(1, "explain", explanation="cats"),
    result(2, "score", scorer="fuzz", value=0.75, metric="balanced_accuracy", metrics={"f1": 0.7}),
]
PROGRESS = {"status": "running", "total": 9, "done": 2, "unitsPerS": 2.0, "spentUsd": 0.5}
CACHING = {"status": "running", "caching": {"stage": "recording", "done": 3, "of": 9, "tokensPerS": 10.0}}


class FakeCluster(httpx.BaseTransport):
    """Answers as a cluster does, for one job."""

    def __init__(self, events: list[bytes | Exception], job: dict[str, Any] | None = None) -> None:
        self.events = events
        self.job = {"jobId": "j1", "status": "succeeded", "reason": None} | (job or {})
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read()) if request.content else None
        path = request.url.path.removeprefix("/v1/autointerp/jobs")
        self.asked.append((request.method, path, dict(request.headers), body))
        match request.method, path:
            case "POST", "":
                return httpx.Response(202, json=self.job)
            case "GET", "/j1/events":
                return httpx.Response(200, stream=Broken(self.events.pop(0), self.events))
            case "GET", "/j1/results":
                return httpx.Response(200, content="".join(json.dumps(line) + "\n" for line in LINES))
            case ("GET" | "PATCH", "/j1") | ("POST", "/j1/resume"):
                return httpx.Response(200, json=self.job)
        return httpx.Response(404, json={"error": "there is none", "hint": "look elsewhere"})

    def paths(self, method: str) -> list[str]:
        return [path for asked, path, _, _ in self.asked if asked == method]


class Broken(httpx.SyncByteStream):
    """A stream that may break off."""

    def __init__(self, first: bytes | Exception, rest: list[bytes | Exception]) -> None:
        self._first = first
        self._rest = rest

    def __iter__(self) -> Any:
        if isinstance(self._first, Exception):
            raise self._first
        yield self._first
        if self._rest and isinstance(self._rest[0], Exception):
            raise self._rest.pop(0)


def event(number: int, kind: str, told: dict[str, Any]) -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(told)}\n\n".encode()


EVENTS = event(1, "progress", CACHING) + event(2, "explanation", LINES[0])
LATER = b": ping\n\n" + event(3, "score", LINES[1]) + event(4, "progress", PROGRESS) + event(5, "done", PROGRESS)


def ran(
    there: FakeCluster, folder: Path, spec: JobSpec | None = None, **changes: Any
) -> tuple[tuple[str, str, list[Line]], str]:
    spec = spec or spec_there(DEMO)
    shown = io.StringIO()
    waited: list[float] = []
    cluster = Cluster(URL, transport=there, sleep=waited.append, **changes)
    with JobProgress(Console(file=shown, force_terminal=True, width=120), shares_of(spec)) as progress:
        return run_there(spec, cluster, folder, progress), shown.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scorers": ("fuzz", "intruder"), "num_examples_per_scorer_prompt": 7, "random": True},
        {"latents": "1,5,8", "max_latents": None},
        {"latents": "10-20", "dataset_repo": "some/texts", "dataset_name": "en"},
        {"texts": ("a.jsonl",), "non_activating_source": "neighbours", "sampler": "delphi-legacy"},
        {"budget_usd": 1.5, "max_tokens_total": 1000, "force": True, "random_explanations": True},
        {"scorer_model": "another/model", "explainer_model": "some/model", "base_url": "https://a.example/v1"},
    ],
)
def test_the_body_asks_for_the_very_job_that_the_flags_mean(changes: dict[str, Any]) -> None:
    flags = replace(DEMO, **changes)
    spec = spec_there(flags)
    asked, key = job_spec(JobRequest.model_validate(body_of(spec)), None)
    assert key is None
    assert asked.cache.make is not None and spec.cache.make is not None
    windows = asked.cache.make.windows
    mine = replace(spec.cache.make, windows=windows, device=asked.cache.make.device)
    assert windows.context_tokens == spec.cache.make.windows.context_tokens
    assert asked == replace(spec, cache=replace(spec.cache, make=mine))


def test_the_same_texts_are_cached_once_and_others_beside_them() -> None:
    names = [
        spec_there(replace(DEMO, **changes)).cache.name
        for changes in ({}, {"scorers": ("fuzz",)}, {"max_latents": 9}, {"n_tokens": 5000}, {"hookpoints": ("2",)})
    ]
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == 3


def test_a_set_in_a_folder_of_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="folder of this machine"):
        spec_there(replace(DEMO, sae_set=str(tmp_path)))


def test_a_job_is_followed_to_its_end_and_its_results_are_brought(tmp_path: Path) -> None:
    (status, reason, lines), shown = ran(FakeCluster([EVENTS + LATER]), tmp_path)
    assert (status, reason) == ("succeeded", "")
    report = report_of("A run", (), ("fuzz",), lines)
    assert [(one.text, one.row.index) for one in report.explanations] == [("cats", 1)]
    assert report.values("fuzz", "features") == [0.75]
    for said in ("caching", "explaining", "scoring", "2.0 units/s"):
        assert said in shown


@pytest.mark.parametrize(
    "break_",
    [httpx.ReadError("gone"), httpx.RemoteProtocolError("gone"), httpx.ReadTimeout(""), httpx.ConnectError("no")],
)
def test_a_connection_that_breaks_is_made_again_where_it_was(tmp_path: Path, break_: Exception) -> None:
    there = FakeCluster([EVENTS, break_, LATER])
    ran(there, tmp_path)
    seen = [headers.get("last-event-id") for _, path, headers, _ in there.asked if path == "/j1/events"]
    assert seen == [None, "2"]
    assert there.paths("POST") == [""]


def test_a_connection_that_breaks_for_ever_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="again and again"):
        ran(FakeCluster([httpx.ReadError("gone") for _ in range(20)]), tmp_path)


def test_the_same_command_follows_the_same_job(tmp_path: Path) -> None:
    ran(FakeCluster([EVENTS + LATER]), tmp_path)
    there = FakeCluster([EVENTS + LATER])
    ran(there, tmp_path)
    assert there.paths("POST") == []


@pytest.mark.parametrize("status", ["paused_budget", "paused", "failed"])
def test_a_job_that_was_paused_is_resumed_with_more_budget(tmp_path: Path, status: str) -> None:
    ran(FakeCluster([EVENTS + LATER]), tmp_path)
    there = FakeCluster([EVENTS + LATER], {"status": status, "concurrency": 16})
    ran(there, tmp_path, spec_there(replace(DEMO, max_tokens_total=5000)))
    assert there.paths("POST") == ["/j1/resume"]
    changes = [body for method, _, _, body in there.asked if method == "PATCH"]
    expected = [] if status == "failed" else [{"max_tokens_total": 5000}]
    assert changes == expected
    for change in changes:
        JobChangeRequest.model_validate(change)


def test_a_job_that_pauses_is_followed_no_longer(tmp_path: Path) -> None:
    paused = event(3, "budget", {"status": "paused_budget", "reason": "enough"})
    there = FakeCluster([EVENTS + paused + LATER], {"status": "paused_budget", "reason": "enough"})
    (status, reason, _), shown = ran(there, tmp_path)
    assert (status, reason) == ("paused_budget", "enough")
    assert "scoring" not in shown


def test_a_command_that_died_before_it_was_answered_begins_no_second_job(tmp_path: Path) -> None:
    def die(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    spec = spec_there(DEMO)
    with (
        pytest.raises(Unavailable),
        JobProgress(Console(file=io.StringIO()), shares_of(spec)) as shown,
    ):
        run_there(spec, Cluster(URL, transport=httpx.MockTransport(die)), tmp_path, shown)
    key = json.loads((tmp_path / "job.json").read_text())["key"]
    there = FakeCluster([EVENTS + LATER])
    ran(there, tmp_path)
    assert [headers["idempotency-key"] for method, _, headers, _ in there.asked if method == "POST"] == [key]


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    ran(FakeCluster([EVENTS + LATER]), tmp_path)
    with pytest.raises(InvalidRequest, match="other settings"):
        ran(FakeCluster([]), tmp_path, spec_there(replace(DEMO, seed=1)))


@pytest.mark.parametrize(("model", "sent"), [("some/model", KEY), (None, None)])
def test_a_key_goes_to_the_cluster_for_models_outside_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | None, sent: str | None
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    there = FakeCluster([EVENTS + LATER])
    ran(there, tmp_path, spec_there(replace(DEMO, explainer_model=model)), secret="cluster-secret")
    begun = next(headers for method, _, headers, _ in there.asked if method == "POST")
    assert begun.get("x-openrouter-key") == sent
    assert {headers["x-secret-key"] for _, _, headers, _ in there.asked} == {"cluster-secret"}
    assert not [path for path in tmp_path.rglob("*") if KEY.encode() in path.read_bytes()]


def answers(code: int, content: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(code, json=content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"error": "no such model", "hint": "name another"}, "no such model"),
        ({"detail": "no such model"}, "no such model"),
        ([1], "answered 404"),
    ],
)
def test_what_the_cluster_refuses_is_told_in_its_words(tmp_path: Path, content: Any, message: str) -> None:
    spec = spec_there(DEMO)
    cluster = Cluster(URL, transport=httpx.MockTransport(answers(404, content)))
    with (
        pytest.raises(RayscopeError, match=message),
        JobProgress(Console(file=io.StringIO()), shares_of(spec)) as shown,
    ):
        run_there(spec, cluster, tmp_path, shown)


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    spec = spec_there(DEMO)
    with (
        pytest.raises(Unavailable, match="can not be reached"),
        JobProgress(Console(file=io.StringIO()), shares_of(spec)) as shown,
    ):
        run_there(spec, Cluster(URL, transport=httpx.MockTransport(refuse)), tmp_path, shown)


def test_here_and_there_are_the_same_job_but_for_the_cache() -> None:
    here = job_of(DEMO, sources_of(DEMO), CacheChoice("cache", making_of(DEMO)))
    assert replace(spec_there(DEMO), cache=here.cache) == here
