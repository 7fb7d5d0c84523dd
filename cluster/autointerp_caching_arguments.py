"""Typed arguments of the workers that cache activations on a cluster."""

from typing import Self

from pydantic import Field, model_validator

from cluster.strict import StrictArguments


class CachingWorkerArgs(StrictArguments):
    """The workers of one caching job. They exist while it runs."""

    min_workers: int = Field(1, ge=1, description="Workers kept while there is work; each holds the model and SAEs.")
    max_workers: int = Field(1, ge=1, description="Workers at most; more are started while parts wait.")
    num_gpus: float = Field(0.0, ge=0, le=1, description="Share of a GPU that each worker reserves and may fill.")
    num_cpus: float = Field(1.0, ge=0, description="CPUs that each worker reserves for scheduling.")
    threads: int | None = Field(
        None, ge=1, description="Threads of one worker on a CPU. Default: the CPUs it reserves."
    )
    reader_cpus: float = Field(1.0, gt=0, description="CPUs reserved for reading and tokenising the texts.")
    retries: int = Field(
        3, ge=0, description="How often a part is tried again whose worker died, before the job is given up."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers})")
        return self
