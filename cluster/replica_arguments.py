"""Typed arguments of a deployment's replicas, and Serve's options that they come to."""

from typing import Any, Self

from pydantic import Field, model_validator

from cluster.strict import StrictArguments


class ScalingArgs(StrictArguments):
    """How many replicas a deployment has, and how much each of them takes on."""

    min_replicas: int = Field(1, ge=0, description="Replicas kept when idle; 0 scales to zero.")
    max_replicas: int = Field(1, ge=1, description="Replicas at most.")
    target_ongoing_requests: float = Field(2, gt=0, description="Requests per replica that autoscaling aims for.")
    upscale_delay_s: float = Field(10.0, ge=0, description="Load must last this long before a replica is added.")
    downscale_delay_s: float = Field(300.0, ge=0, description="Idleness must last this long before one is removed.")
    max_ongoing_requests: int = Field(16, ge=1, description="Requests in progress per replica at most.")

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})")
        return self

    def options(self) -> dict[str, Any]:
        """Serve's options for the deployment."""
        return {
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": self.target_ongoing_requests,
                "upscale_delay_s": self.upscale_delay_s,
                "downscale_delay_s": self.downscale_delay_s,
            },
            "max_ongoing_requests": self.max_ongoing_requests,
        }


class ReplicaArgs(ScalingArgs):
    """Replicas of one deployment, each on its share of a machine."""

    num_cpus: float = Field(0.25, ge=0, description="CPUs that each replica reserves for scheduling.")
    num_gpus: float = Field(0.0, ge=0, le=1, description="Share of a GPU that each replica reserves and may fill.")

    def options(self) -> dict[str, Any]:
        """Serve's options for the deployment."""
        return {**super().options(), "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}}
