"""What `core` measures: every metric's name, unit, tags and buckets, defined once, and the sink they go to.

    Batcher · Residency · DeviceExecutor  --count / set / observe-->  MetricSink

Names carry their unit, as Prometheus asks: `_seconds`, `_bytes`, `_tokens`; counters end in `_total`. Ray
adds which application, deployment and replica a number comes from, so those are not tags here. A tag's values
are few and fixed; never a model, a source or anything a client wrote.

Deliberately not here: an implementation. Ray's lives with the deployments, because `core` does not import
Ray.
"""

from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows.

    Attributes:
        name: Full metric name.
        description: One sentence for the dashboard.
        tags: The tag keys that every sample carries.
    """

    name: str
    description: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is what it is now.

    Attributes:
        name: Full metric name.
        description: One sentence for the dashboard.
        tags: The tag keys that every sample carries.
    """

    name: str
    description: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How a number is distributed.

    Attributes:
        name: Full metric name. description: One sentence for the dashboard. buckets: Upper bounds, ascending
        and positive (Ray refuses others), in the unit that the name ends with. tags: The tag keys that every
        sample carries.
    """

    name: str
    description: str
    buckets: tuple[float, ...]
    tags: tuple[str, ...] = ()


class MetricSink(Protocol):
    """Takes measurements.

    Called from the event loop and from the device thread, so an implementation must be safe in threads and
    must not block. Samples carry exactly the tags that their metric declares.
    """

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        """Add `amount`, which is not negative."""
        ...

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        """Replace the current value."""
        ...

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        """Add one sample."""
        ...


class NullMetrics:
    """The sink for scripts and tests: forgets everything."""

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        """Forget it."""

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        """Forget it."""

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        """Forget it."""


NULL_METRICS: Final[MetricSink] = NullMetrics()

_SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
)
_ENTRIES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TOKENS: Final = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0)

BATCH_QUEUED_TOKENS: Final = Gauge("rayscope_batch_queued_tokens", "Tokens waiting for the device.")
BATCH_QUEUED_ENTRIES: Final = Gauge("rayscope_batch_queued_entries", "Requests waiting for the device.")
BATCH_WAIT: Final = Histogram("rayscope_batch_wait_seconds", "From arrival to the start of the step.", _SECONDS)
BATCH_STEP: Final = Histogram("rayscope_batch_step_seconds", "Duration of one step.", _SECONDS)
BATCH_ENTRIES: Final = Histogram("rayscope_batch_entries", "Requests in one step.", _ENTRIES)
BATCH_COST: Final = Histogram("rayscope_batch_cost_tokens", "Tokens in one step, padding included.", _TOKENS)
BATCH_RETRIES: Final = Counter("rayscope_batch_retries_total", "Requests run alone after their batch failed.")
BATCH_OUTCOMES: Final = Counter(
    "rayscope_batch_outcomes_total",
    "Requests by how they ended: served, failed, cancelled, expired or refused.",
    ("outcome",),
)

GENERATION_ROWS: Final = Gauge("rayscope_generation_entries", "Texts being written.")
GENERATION_TOKENS: Final = Counter("rayscope_generation_tokens_total", "Tokens generated.")

RESIDENCY_HITS: Final = Counter("rayscope_residency_hits_total", "SAEs found on the device.")
RESIDENCY_MISSES: Final = Counter("rayscope_residency_misses_total", "SAEs that a request had to wait for.")
RESIDENCY_EVICTIONS: Final = Counter("rayscope_residency_evictions_total", "SAEs taken off the device.")
RESIDENCY_FAILURES: Final = Counter("rayscope_residency_failed_loads_total", "Loads that failed.")
RESIDENCY_RESERVED: Final = Gauge("rayscope_residency_reserved_bytes", "Device bytes held, loads under way included.")
RESIDENCY_HOST: Final = Gauge("rayscope_residency_host_bytes", "Bytes held in host memory.")
RESIDENCY_WAIT: Final = Histogram("rayscope_residency_lease_seconds", "From asking for a lease to having it.", _SECONDS)
RESIDENCY_LOAD: Final = Histogram(
    "rayscope_residency_load_seconds",
    "Duration of one load, by where it came from: host or disk.",
    _SECONDS,
    ("tier",),
)

DEVICE_WAIT: Final = Histogram("rayscope_device_wait_seconds", "From asking for the device to having it.", _SECONDS)
DEVICE_BUSY: Final = Counter("rayscope_device_busy_seconds_total", "Seconds that the device thread worked.")
DEVICE_ERRORS: Final = Counter(
    "rayscope_device_errors_total", "Device failures by kind: out_of_memory or fatal.", ("kind",)
)

METRICS: Final[tuple[Counter | Gauge | Histogram, ...]] = (
    BATCH_QUEUED_TOKENS,
    BATCH_QUEUED_ENTRIES,
    BATCH_WAIT,
    BATCH_STEP,
    BATCH_ENTRIES,
    BATCH_COST,
    BATCH_RETRIES,
    BATCH_OUTCOMES,
    RESIDENCY_HITS,
    RESIDENCY_MISSES,
    RESIDENCY_EVICTIONS,
    RESIDENCY_FAILURES,
    RESIDENCY_RESERVED,
    RESIDENCY_HOST,
    RESIDENCY_WAIT,
    RESIDENCY_LOAD,
    DEVICE_WAIT,
    DEVICE_BUSY,
    DEVICE_ERRORS,
    GENERATION_ROWS,
    GENERATION_TOKENS,
)
