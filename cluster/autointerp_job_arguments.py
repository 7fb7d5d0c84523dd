"""Typed arguments of the jobs of automatic interpretability: how much at once, what they may read, who caches."""

from typing import Literal

from pydantic import Field

from cluster.autointerp_caching_arguments import CachingWorkerArgs
from cluster.strict import StrictArguments


class JobsArgs(StrictArguments):
    """The replica that works on jobs."""

    in_flight: int = Field(512, ge=1, description="Units of work at once, of all jobs.")
    unit_timeout_s: float = Field(900.0, gt=0, description="Time for one unit, retries of its calls included.")
    caching: Literal["workers", "none"] = Field(
        "workers", description="Whether jobs may have caches of activations made, or only read what is there."
    )
    workers: CachingWorkerArgs = Field(
        default_factory=lambda: CachingWorkerArgs.model_validate({}), description="The workers that make them."
    )
    corpora: list[str] = Field(
        default_factory=list, description="Folders whose files jobs may name as texts. Empty: none."
    )
    source_folders: dict[str, str] = Field(
        default_factory=dict, description="Source sets that lie in local folders: set id to folder."
    )
    snapshots: str | None = Field(
        None,
        description="Where copies of the jobs' file go, such as s3://bucket/folder: a replica on another machine "
        "goes on from the last one. Default: nowhere.",
    )
    snapshot_s: float = Field(5.0, gt=0, description="Seconds between two copies, if anything has changed.")
