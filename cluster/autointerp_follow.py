"""A run of automatic interpretability on a cluster: the same job over HTTP, followed until it ends.

    flags -> POST /v1/autointerp/jobs -> events, by number -> results -> the run's folder

The folder keeps which job it is, so the same command follows it again, wherever the connection was lost, and resumes it
if it was paused. Stopping the command does not stop the job.

Deliberately not here: what is shown (`autointerp_progress`), and jobs in this process (`autointerp_run`).
"""

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic.alias_generators import to_snake

from cluster.autointerp_flags import RunFlags, job_of, lasting, making_of, sources_of
from cluster.autointerp_progress import JobProgress
from core.autointerp.caching.corpus import DatasetTexts, DemoTexts
from core.autointerp.jobs.choices import AskedModel, CacheChoice, CacheMaking
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.units import ENDED
from core.autointerp.report.rows import Line
from core.errors import InvalidRequest, RayscopeError, Unavailable

JOB: Final = "job.json"
_JOBS: Final = "/v1/autointerp/jobs"
_PATIENCE: Final = 6
_LONGEST_WAIT_S: Final = 20.0
_READ_S: Final = 60.0  # a stream says something every few seconds
_OPENROUTER_KEY: Final = "OPENROUTER_API_KEY"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a cluster is.

    Attributes:
        url: Its front door.
        secret: Its secret, if it has one.
        transport: Sends requests; None: over the network.
        sleep: Waits before trying again.
    """

    url: str
    secret: str | None = None
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep


def spec_there(flags: RunFlags) -> JobSpec:
    """The job that flags ask for, with a cache that others who ask for the same find again.

    Raises:
        RayscopeError: They ask for what there is not.
    """
    if flags.set_folders:
        raise InvalidRequest("A cluster does not read SAEs out of a folder of this machine.", "Name a source set.")
    sources, making = sources_of(flags), making_of(flags)
    spec = job_of(flags, sources, CacheChoice("cache", making))
    told = hashlib.sha256(json.dumps([_making(making), spec.sources]).encode()).hexdigest()[:12]
    name = _UNSAFE.sub("-", f"{spec.model}-{flags.set_name}")[:48].strip("-.")
    return job_of(flags, sources, CacheChoice(f"{name}-{told}", making))


def run_there(spec: JobSpec, cluster: Cluster, folder: Path, shown: JobProgress) -> tuple[str, str, list[Line]]:
    """Begins or goes on with a job on a cluster and follows it.

    Returns:
        How it stands, why, and its results.

    Raises:
        RayscopeError: The cluster refuses, or can not be reached.
        KeyboardInterrupt: Somebody stopped following it.
    """
    headers = {} if cluster.secret is None else {"x-secret-key": cluster.secret}
    timeout = httpx.Timeout(_READ_S, connect=10.0)
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=timeout, transport=cluster.transport) as client:
        job_id = _begin(client, cluster, spec, folder)
        _follow(client, cluster, job_id, shown)
        job = _asked(client, "GET", f"{_JOBS}/{job_id}")
        return job["status"], job.get("reason") or "", list(_results(client, job_id))


def body_of(spec: JobSpec) -> dict[str, Any]:
    """A job as a request's body; what is None is left out."""
    settings = spec.sampling.settings
    asked, judge = spec.asked, spec.judge
    make = spec.cache.make
    body: dict[str, Any] = {
        "model_id": spec.model,
        "sae_ids": list(spec.sources),
        "latents": {
            "kind": spec.latents.kind,
            "start": spec.latents.start,
            "stop": spec.latents.stop,
            "indices": list(spec.latents.indices),
            "count": spec.latents.count,
            "seed": spec.latents.seed,
            "alive_only": spec.latents.alive_only,
        },
        "explainers": [{"type": step.type, "params": dict(step.parameters)} for step in spec.explainers],
        "scorers": [{"type": step.type, "params": dict(step.parameters)} for step in spec.scorers],
        "cache": {"name": spec.cache.name, "make": None if make is None else _making(make)},
        "sampling": {
            "n_train": settings.n_train,
            "n_test": settings.n_test,
            "n_silent": settings.n_silent,
            "n_quantiles": settings.n_quantiles,
            "train_type": settings.train_type,
            "ratio_top": settings.ratio_top,
            "min_examples": settings.min_examples,
            "seed": settings.seed,
            "sampler": spec.sampling.sampler,
            "silent": spec.sampling.silent,
        },
        "baselines": list(spec.baselines),
        "budget_usd": spec.budget.usd,
        "max_tokens_total": spec.budget.tokens,
        "concurrency": spec.concurrency,
        "force": spec.force,
        "seed": spec.seed,
    }
    if asked is not None:
        body |= _model(asked)
    if judge is not None:
        body["judge"] = _model(judge)
    return _said(body)


def _model(asked: AskedModel) -> dict[str, Any]:
    return {"model": asked.model, "provider": asked.provider, "base_url": asked.base_url}


def _making(make: CacheMaking) -> dict[str, Any]:
    texts = make.texts
    body: dict[str, Any] = {
        "n_tokens": make.n_tokens,
        "context_tokens": make.windows.context_tokens,
        "example_tokens": make.reservoirs.window_tokens,
        "top": make.reservoirs.top,
        "per_octave": make.reservoirs.per_octave,
        "silent_pool": make.reservoirs.silent_pool,
        "threshold": make.threshold,
    }
    if isinstance(texts, DemoTexts):
        return body | {"demo_documents": texts.count, "text_seed": texts.seed}
    if isinstance(texts, DatasetTexts):
        names = ("repo", "split", "name", "column", "revision")
        return body | {"dataset": {name: getattr(texts, name) for name in names}}
    return body | {"files": list(texts.paths), "text_column": texts.column}


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _said(inner) for name, inner in value.items() if inner is not None}
    return value


def _begin(client: httpx.Client, cluster: Cluster, spec: JobSpec, folder: Path) -> str:
    """The job of the run's folder, gone on with, or a new one.

    The key under which it is begun is written down before, so a command that dies in between begins no second job.
    """
    path = folder / JOB
    mine = {"url": cluster.url, "digest": hashlib.sha256(lasting(spec).dumped()).hexdigest()}
    known: dict[str, str] = json.loads(path.read_text()) if path.is_file() else mine
    if known | mine != known:
        raise InvalidRequest(
            "The folder holds a run that was begun with other settings, or elsewhere.",
            "Give the settings it was begun with, another --name, or --overwrite scores.",
        )
    if "job_id" in known:
        _go_on(client, spec, known["job_id"])
        return known["job_id"]
    known = {"key": uuid.uuid4().hex} | known
    path.write_text(json.dumps(known))
    job = _asked(client, "POST", _JOBS, body_of(spec), {"idempotency-key": known["key"], **_provider_key(spec)})
    path.write_text(json.dumps(known | {"job_id": job["job_id"]}))
    return job["job_id"]


def _go_on(client: httpx.Client, spec: JobSpec, job_id: str) -> None:
    """Changes what may be changed of a job, and resumes it if it does not go on by itself."""
    path = f"{_JOBS}/{job_id}"
    job = _asked(client, "GET", path)
    wanted = {"budget_usd": spec.budget.usd, "max_tokens_total": spec.budget.tokens, "concurrency": spec.concurrency}
    change = {name: value for name, value in wanted.items() if value is not None and job.get(name) != value}
    if change and job["status"] not in ENDED:
        _asked(client, "PATCH", path, change)
    if job["status"] == "failed" or job["status"].startswith("paused"):
        _asked(client, "POST", f"{path}/resume", {}, _provider_key(spec))


def _provider_key(spec: JobSpec) -> dict[str, str]:
    """The header with the key of this machine's environment, if a provider outside is asked."""
    outside = any(one is not None and one.provider != "local" for one in (spec.asked, spec.judge))
    key = os.environ.get(_OPENROUTER_KEY)
    return {"x-openrouter-key": key} if outside and key else {}


def _follow(client: httpx.Client, cluster: Cluster, job_id: str, shown: JobProgress) -> None:
    """Shows what a job tells until it ends or pauses; a connection that breaks is made again."""
    after, failed = 0, 0
    while True:
        try:
            for number, kind, told in _events(client, job_id, after):
                after, failed = number, 0
                if kind in ("explanation", "score"):
                    shown.result(told)
                else:
                    shown.status(told)
                    if str(told.get("status", "")).startswith("paused"):
                        return
            return
        except httpx.TransportError as error:
            failed += 1
            if failed > _PATIENCE:
                raise Unavailable(
                    "The connection to the cluster breaks again and again.", "The same command follows the job again."
                ) from error
            cluster.sleep(min(2.0**failed, _LONGEST_WAIT_S))


def _events(client: httpx.Client, job_id: str, after: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, kind and content of each event after one."""
    headers = {"last-event-id": str(after)} if after else {}
    with client.stream("GET", f"{_JOBS}/{job_id}/events", headers=headers) as response:
        _check(response)
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if "data" in fields:
                told = _snake(json.loads(fields["data"]))
                if fields.get("event") == "error":
                    raise RayscopeError(str(told.get("error", "The cluster failed.")), told.get("hint"))
                yield int(fields.get("id", after)), fields.get("event", ""), told
            fields = {}


def _results(client: httpx.Client, job_id: str) -> Iterator[Line]:
    with _refusing(), client.stream("GET", f"{_JOBS}/{job_id}/results") as response:
        _check(response)
        for line in response.iter_lines():
            yield _snake(json.loads(line))


def _asked(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    with _refusing():
        response = client.request(method, path, json=body, headers=headers)
    _check(response)
    return _snake(response.json())


@contextmanager
def _refusing() -> Generator[None]:
    """Says in words that a cluster can not be reached."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unavailable(f"The cluster can not be reached: {error}", "See whether it runs, and --url.") from None


def _check(response: httpx.Response) -> None:
    """Raises what the cluster says."""
    if response.is_success:
        return
    response.read()
    try:
        said: Any = response.json()
        message = said.get("error") or said["detail"]
    except (ValueError, AttributeError, KeyError, TypeError):
        raise RayscopeError(f"The cluster answered {response.status_code}.") from None
    raise RayscopeError(str(message), said.get("hint"))


def _snake(value: Any) -> Any:
    """The same with keys in snake case, whichever the cluster's casing; of figures by name, too."""
    if isinstance(value, dict):
        return {to_snake(name): _snake(inner) for name, inner in value.items()}
    return value
