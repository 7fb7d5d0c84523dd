"""A Ray and Serve instance of the test's own: own ports, own temporary folder, shut down at the end."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray._common.test_utils import wait_for_condition

# Quick reactions, so that tests need no patience.
_QUICK = {
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_instance(*, num_cpus: int = 8, num_gpus: int = 0) -> Iterator[None]:
    """Starts Ray."""
    before = dict(os.environ)
    os.environ.update(_QUICK)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            object_store_memory=200_000_000,
        )
        try:
            yield
        finally:
            ray.shutdown()
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def serve_instance(*, num_cpus: int = 8, num_gpus: int = 0) -> Iterator[str]:
    """Starts Ray and Serve; yields the URL of the HTTP proxy."""
    port = free_port()
    with ray_instance(num_cpus=num_cpus, num_gpus=num_gpus):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


def deploy(builder: Any, args: Any, name: str, route_prefix: str | None) -> None:
    """Deploys one application and waits until it runs."""
    serve.run(builder(args), name=name, route_prefix=route_prefix)


def replicas(app: str, deployment: str) -> int:
    """Running replicas of a deployment."""
    states = serve.status().applications[app].deployments[deployment].replica_states
    return states.get("RUNNING", 0)


def wait_for_replicas(app: str, deployment: str, count: int, timeout_s: float = 60) -> None:
    """Waits until a deployment has exactly so many running replicas."""
    wait_for_condition(lambda: replicas(app, deployment) == count, timeout=timeout_s, retry_interval_ms=200)
