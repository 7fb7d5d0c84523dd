"""Background graphs on the wire: a job's state as its answer, and where a graph went as a receipt."""

from typing import Any, Final, cast

import orjson

from core.errors import UploadFailed
from core.exchange.graph import uploaded
from core.graph.publisher import Published
from core.job_state import JobState, Progress
from core.wire.graph import GraphGenerationResponse
from core.wire.graph_jobs import GraphJobResponse, GraphProgress, Stage

_WAITING: Final = Progress("queued")
_NOT_UPLOADED: Final = "Failed to upload file"


def job_id_of(app_name: str, state: JobState) -> str:
    """The id that a client knows a job by: it says which application has it."""
    return f"{app_name}.{state.id}"


def app_and_job(job_id: str) -> tuple[str, str]:
    """The application that has a job, and the job's name there."""
    app_name, _, job = job_id.rpartition(".")
    return app_name, job


def graph_job(job_id: str, state: JobState, published: Published | None = None) -> GraphJobResponse:
    """How far a background graph is.

    Args:
        job_id: The id that the client knows.
        state: What is known of the job.
        published: The graph, or where it went, if it is to be shown.
    """
    progress = state.progress or _WAITING
    graph: Any = None
    receipt: GraphGenerationResponse | None = None
    if published is not None:
        if published.content is not None:
            graph = orjson.loads(published.content)
        else:
            receipt = receipt_of(published)
    return GraphJobResponse(
        id=job_id,
        status=state.status,
        progress=GraphProgress(stage=cast(Stage, progress.stage), rows_done=progress.done, rows_total=progress.of),
        partial=state.output if graph is not None else None,
        graph=graph,
        upload=receipt,
        error=state.error,
    )


def receipt_of(published: Published) -> GraphGenerationResponse:
    """The receipt of a graph that went to storage."""
    return uploaded(published.url or "", published.read_url)


def not_uploaded(error: UploadFailed) -> GraphGenerationResponse:
    """The peer's words for a graph that storage did not take, and why."""
    return GraphGenerationResponse(error=_NOT_UPLOADED, detail=error.text)
