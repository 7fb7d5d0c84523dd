"""What runs on the cluster, as Serve's controller tells it.

`serve.status()` says the same, but builds Serve's own models of it on the way, which pickle a router per deployment:
6 ms each, 150 ms for twenty, on every look. So its source is asked directly, which is private and pinned with Ray's
version; `tests/serve` would not start without it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus


@dataclass(frozen=True, slots=True)
class Application:
    """An application.

    Attributes:
        status: Serve's word for how it is.
        deployed_at_s: When it was deployed last, in seconds since 1970.
        replicas: Number of replicas in each of Serve's states, by deployment.
    """

    status: ApplicationStatus
    deployed_at_s: float
    replicas: Mapping[str, Counter[str]]

    @property
    def answers(self) -> bool:
        """Whether it can be asked: it is up, even if some of it is not well."""
        return self.status in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY)


def applications() -> dict[str, Application]:
    """All applications by name. Blocks for a call to the controller."""
    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    told: Mapping[str, Any] = client.get_serve_details()["applications"]
    return {name: _application(details) for name, details in told.items()}


def _application(details: Mapping[str, Any]) -> Application:
    deployments: Mapping[str, Any] = details["deployments"]
    return Application(
        ApplicationStatus(details["status"]),
        details["last_deployed_time_s"],
        {
            name: Counter(ReplicaState(replica["state"]).value for replica in deployment["replicas"])
            for name, deployment in deployments.items()
        },
    )
