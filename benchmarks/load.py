"""A closed loop of clients: each sends its next request when the answer to the last one is there.

Clients run in a process of their own, so that the measuring does not wait for the measured; they still share the
machine's cores with the server, and `cpu_share` says how much of one core they took. Replies are read to the end and
not parsed. Clients accept gzip, as browsers and Python clients do.

    python -m benchmarks.load < specification.json > measurement.json
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

_LONGEST_S = 60.0
_WARM_UP_S = 1.0
_REQUEST_TIMEOUT_S = 120.0
_REPLIES_PER_CLIENT = 2


@dataclass(frozen=True, slots=True)
class Measurement:
    """What clients saw. Latencies in milliseconds over requests that began after the warm-up."""

    clients: int
    seconds: float
    requests: int
    errors: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_share: float


def measure(url: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float) -> Measurement:
    """Puts `clients` clients on a route for `seconds`, longer where few requests complete."""
    specification = {"url": url, "bodies": list(bodies), "clients": clients, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(specification),
        capture_output=True,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(done.stdout))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of ascending values; 0 where there are none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100).__int__() - 1))]


@dataclass(slots=True)
class _Load:
    url: str
    bodies: list[bytes]
    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    sent: int = 0
    replied: int = 0
    started_s: float | None = None
    ended_s: float = 0.0

    async def run(self, clients: int) -> None:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            began_s = time.perf_counter()
            await asyncio.gather(*(self._client(session, clients, began_s) for _ in range(clients)))

    async def _client(self, session: aiohttp.ClientSession, clients: int, began_s: float) -> None:
        while True:
            body = self.bodies[self.sent % len(self.bodies)]
            self.sent += 1
            sent_s = time.perf_counter()
            good = await self._ask(session, body)
            now_s = time.perf_counter()
            self.replied += 1
            if self.started_s is None:
                # Warm when time has passed and every client has had an answer on its connection.
                if now_s - began_s >= _WARM_UP_S and self.replied >= clients:
                    self.started_s = now_s
                continue
            if self._over(now_s, clients):
                return
            self.ended_s = now_s
            self.errors += not good
            if good:
                self.latencies_s.append(now_s - sent_s)

    def _over(self, now_s: float, clients: int) -> bool:
        assert self.started_s is not None
        elapsed_s = now_s - self.started_s
        few = len(self.latencies_s) < _REPLIES_PER_CLIENT * clients
        return elapsed_s >= (_LONGEST_S if few else self.seconds)

    async def _ask(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        try:
            async with session.post(self.url, data=body) as reply:
                await reply.read()
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def main() -> None:
    """Reads a specification from standard input and writes the measurement to standard output."""
    asked = json.load(sys.stdin)
    load = _Load(asked["url"], [json.dumps(body).encode() for body in asked["bodies"]], asked["seconds"])
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    asyncio.run(load.run(asked["clients"]))
    cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
    elapsed_s = max(load.ended_s - (load.started_s or 0.0), 1e-9)
    ordered_ms = sorted(latency * 1000 for latency in load.latencies_s)
    measurement = Measurement(
        clients=asked["clients"],
        seconds=round(elapsed_s, 3),
        requests=len(ordered_ms),
        errors=load.errors,
        per_s=round(len(ordered_ms) / elapsed_s, 3),
        p50_ms=round(percentile(ordered_ms, 50), 3),
        p95_ms=round(percentile(ordered_ms, 95), 3),
        p99_ms=round(percentile(ordered_ms, 99), 3),
        cpu_share=round(cpu_share, 4),
    )
    json.dump(asdict(measurement), sys.stdout)


if __name__ == "__main__":
    main()
