"""Our metrics on Ray's metrics endpoint, where Prometheus finds them next to Serve's own."""

from functools import cached_property
from typing import Any

from ray.serve import metrics

from core.metrics import METRICS, Counter, Gauge, Histogram


class RayMetrics:
    """A `core.metrics.MetricSink`. Serve adds application, deployment and replica to every sample."""

    @cached_property
    def _instruments(self) -> dict[str, Any]:
        return {metric.name: _instrument(metric) for metric in METRICS}

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        """Adds to a counter; Ray refuses zero, which would add nothing."""
        if amount > 0:
            self._instruments[metric.name].inc(amount, tags=tags)

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        """Sets a gauge."""
        self._instruments[metric.name].set(value, tags=tags)

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        """Adds a sample to a histogram."""
        self._instruments[metric.name].observe(value, tags=tags)


def _instrument(metric: Counter | Gauge | Histogram) -> Any:
    tags: Any = metric.tags  # Ray annotates a tuple of one
    if isinstance(metric, Counter):
        return metrics.Counter(metric.name, metric.description, tag_keys=tags)
    if isinstance(metric, Gauge):
        return metrics.Gauge(metric.name, metric.description, tag_keys=tags)
    return metrics.Histogram(metric.name, metric.description, boundaries=list(metric.buckets), tag_keys=tags)
