"""`/v1/steer/health`: how busy a model is with writing, in figures and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.exchange.served import ServedModel
from core.residency import ResidencyStats
from core.wire.steering_chat import SteerHealthResponse, SteerHealthStats


def steering_health(model: ServedModel, reports: Sequence[Mapping[str, Any]], now_s: float) -> SteerHealthResponse:
    """Sums up.

    Args:
        model: The model.
        reports: What one replica of each deployment that holds the model reports.
        now_s: Seconds since 1970.
    """
    # A Steerer holds no SAEs and answers no questions.
    residency: list[ResidencyStats] = [report["residency"] for report in reports if "residency" in report]
    stats = SteerHealthStats(
        timestamp=now_s,
        model_name=model.description.names.id,
        engine_initialized=True,
        num_running_requests=sum(report["generating"] for report in reports),
        num_waiting_requests=sum(report["waiting"] for report in reports),
        process_ram_mb=sum(report["process_ram_bytes"] for report in reports) / 2**20,
        queue_time_s=max(report.get("queue_time_s", 0.0) for report in reports),
        sae_resident_bytes=sum(held.resident_bytes for held in residency),
        sae_budget_bytes=sum(held.budget_bytes for held in residency),
    )
    return SteerHealthResponse(stats=stats, summary=_words(stats))


def _words(stats: SteerHealthStats) -> str:
    return "\n".join(
        (
            f"{stats.model_name}: {stats.num_running_requests} texts are being written, "
            f"{stats.num_waiting_requests} wait",
            f"questions about activations wait {stats.queue_time_s:.1f} s",
            f"SAEs hold {stats.sae_resident_bytes / 2**20:.0f} of {stats.sae_budget_bytes / 2**20:.0f} MiB",
        )
    )
