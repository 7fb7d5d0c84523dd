"""Our side of `make bench-autointerp` once more, as users have it: a job over HTTP on a cluster of this machine.

    python -m benchmarks.autointerp_cluster ORDER

    POST /v1/autointerp/jobs -> Jobs -> Explainer, Scorer -> provider; ledger, replies and gates with the Bookkeeper

It is timed from the request to the job's end as the cluster says it. How long single latents took is not known here.
"""

import json
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.autointerp_cases import EXEMPLARS, SOURCE, Cases
from benchmarks.autointerp_timing import AskingOrder, Found, report
from benchmarks.server import Server
from core.demo import DEMO_MODEL_ID

_ROUTE = "/v1/autointerp/jobs"
_POLL_S = 0.5
_REQUEST_TIMEOUT_S = 120.0
_GOES_ON = ("queued", "running")
# A cluster of its own beside any other on the machine, its door open to this process.
_OWN_CLUSTER = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "SECRET": "", "HF_HUB_OFFLINE": "1"}


def measure(order: AskingOrder) -> Found:
    """What explaining and scoring took, and what came of it.

    Raises:
        RuntimeError: The cluster did not start, or the job did not succeed.
    """
    latents = Cases(order.folder).latents[: order.latents]
    body = _job(order, latents)
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        port = _free_port()
        config = Path(folder) / "serve.yaml"
        config.write_text(yaml.safe_dump(_config(order, Path(folder), port)))
        command = [str(Path(sys.executable).with_name("rayscope")), "serve", "--config", str(config)]
        server = Server(command, f"http://127.0.0.1:{port}", (f"{_ROUTE}/estimate", body), _OWN_CLUSTER)
        client = httpx.Client(base_url=server.url, timeout=_REQUEST_TIMEOUT_S, trust_env=False)
        with server, client:
            began_s, cpu_s = time.perf_counter(), _cpu_s()
            job = client.post(_ROUTE, json=body).raise_for_status().json()
            while job["status"] in _GOES_ON:
                time.sleep(_POLL_S)
                job = client.get(f"{_ROUTE}/{job['jobId']}").raise_for_status().json()
            cpu_s = _cpu_s() - cpu_s
            wall_s = (job["endedAt"] or 0.0) - job["createdAt"]
            if job["status"] != "succeeded" or job["done"] != job["total"]:
                raise RuntimeError(f"the job is {job['status']} after {time.perf_counter() - began_s:.0f} s: {job}")
            lines = client.get(f"{_ROUTE}/{job['jobId']}/results").raise_for_status().text.splitlines()
    scored = [line for line in map(json.loads, lines) if line["kind"] == "score"]
    return {
        "latents": len(latents),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "latent_s": [],
        "rows": sum(line["nRows"] for line in scored),
        "failed_rows": sum(line["nFailedRows"] for line in scored),
        "scores": {
            scorer: {str(line["index"]): line["value"] for line in scored if line["scorer"] == scorer}
            for scorer in ("fuzz", "detection")
        },
    }


def _job(order: AskingOrder, latents: Sequence[int]) -> dict[str, Any]:
    return {
        "modelId": DEMO_MODEL_ID,
        "saeIds": [SOURCE],
        "latents": {"kind": "list", "indices": list(latents)},
        "explainers": [{"type": "default"}],
        "scorers": [{"type": "fuzz"}, {"type": "detection"}],
        "model": "made-up",
        "baseUrl": order.url,
        "openrouterKey": "none",
        "cache": {"name": EXEMPLARS},
        "concurrency": order.at_once,
    }


def _config(order: AskingOrder, folder: Path, port: int) -> dict[str, Any]:
    """Two applications: the front door and this one."""
    limits = {"in_flight": order.at_once}
    arguments = {
        "folder": str(folder / "state"),
        "caches": [order.cases],
        "providers": [{"base_url": order.url, "models": {"*": limits}}],
        "allow_loopback": True,
        "jobs": {"caching": "none"},
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port, "request_timeout_s": 310},
        "logging_config": {"encoding": "TEXT", "enable_access_log": False},
        "applications": [
            {
                "name": "gateway",
                "route_prefix": "/",
                "import_path": "deployments.app:build_gateway",
                "args": {"secret": {"env": "SECRET"}},
            },
            {
                "name": "autointerp",
                "route_prefix": None,
                "import_path": "deployments.autointerp.app:build_autointerp_app",
                "args": arguments,
            },
        ],
    }


def _cpu_s() -> float:
    """CPU seconds of all processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(words: Sequence[str]) -> None:
    """Measures what is ordered on the command line."""
    report(measure(AskingOrder.read(words)))


if __name__ == "__main__":
    main(sys.argv[1:])
