"""Autoscaling policies that Serve's controller runs. They must stay cheap: it runs them ten times a second.

`ShareDevices` is for a whole application whose stages live on fractions of the same GPUs. Every stage scaling by itself
would take whatever is free, first come, first served, and a burst in one stage would starve the one after it, through
which the same graphs must pass. So one policy sees all of them and deals a fixed budget out, replica by replica, to
whoever has the most requests per replica.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingContext

_ROUNDING = 1e-9  # of sums of shares


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stage would like.

    Attributes:
        load: Replicas that its requests would keep as busy as they should be; a fraction.
        least: Replicas that it always has.
        most: Replicas that it may have.
        share: Devices that one replica takes; 0 for a stage that needs none.
    """

    load: float
    least: int
    most: int
    share: float

    @property
    def wanted(self) -> int:
        """Replicas that it would have if it were alone."""
        return min(max(math.ceil(self.load), self.least), self.most)


def share_out(demands: Mapping[str, Demand], budget: float) -> dict[str, int]:
    """Replicas of every stage, within a budget of devices.

    Every stage has its least number, whatever that takes. The rest goes one by one to the stage with the most load per
    replica, of those that want one more and whose share still fits.
    """
    given = {name: demand.least if demand.share else demand.wanted for name, demand in demands.items()}
    left = budget - sum(given[name] * demand.share for name, demand in demands.items())
    while True:
        hungry = [
            name for name, demand in demands.items() if given[name] < demand.wanted and demand.share <= left + _ROUNDING
        ]
        if not hungry:
            return given
        chosen = max(hungry, key=lambda name: demands[name].load / max(given[name], 1))
        given[chosen] += 1
        left -= demands[chosen].share


class ShareDevices:
    """Application-level policy of Serve: stages of one application share a number of devices.

    In `serve_config.yaml`, on the application:

        autoscaling_policy:
          policy_function: cluster.policies:ShareDevices
          policy_kwargs: {devices: 1, shares: {Tracer: 0.5, Attributor: 0.25}}

    Args:
        devices: How many there are to share.
        shares: Devices that one replica of a stage takes, as its `num_gpus`.
    """

    def __init__(self, devices: float, shares: Mapping[str, float]) -> None:
        self._devices = devices
        self._shares = dict(shares)

    def __call__(
        self, contexts: dict[DeploymentID, AutoscalingContext]
    ) -> tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]:
        """The number of replicas of every stage; no state of our own."""
        ids = {deployment.name: deployment for deployment in contexts}
        demands = {name: self._demand(name, contexts[deployment]) for name, deployment in ids.items()}
        given = share_out(demands, self._devices)
        return {ids[name]: number for name, number in given.items()}, {}

    def _demand(self, name: str, context: Any) -> Demand:
        return Demand(
            load=context.total_num_requests / context.config.get_target_ongoing_requests(),
            least=context.capacity_adjusted_min_replicas,
            most=context.capacity_adjusted_max_replicas,
            share=self._shares.get(name, 0.0),
        )
