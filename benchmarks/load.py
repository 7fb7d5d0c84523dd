"""A closed loop of clients: each sends its next request when the answer to the last one is there.

Clients run in a process of their own, so that the measuring does not wait for the measured; they still share the
machine's cores with the server, and `cpu_share` says how much of one core they took. Replies are read to the end and
not parsed. Clients accept gzip, as browsers and Python clients do.

A client's window runs from its first answer after the warm-up to its last one, and the throughput is the sum of the
clients' own rates. Counting answers in one common window would count nearly a whole batch too many where a server
answers in batches.

    python -m benchmarks.load < specification.json > measurement.json
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

_WARM_UP_S = 1.0
_LONGEST_S = 90.0
_REQUEST_TIMEOUT_S = 120.0
_ANSWERS_AT_LEAST = 2


@dataclass(frozen=True, slots=True)
class Measurement:
    """What clients saw, warm-up left out."""

    clients: int
    requests: int
    errors: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_share: float


def measure(url: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float) -> Measurement:
    """Puts `clients` clients on a route for `seconds`, longer until each has had two answers after the warm-up."""
    specification = {"url": url, "bodies": list(bodies), "clients": clients, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(specification),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(done.stdout))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of ascending values; 0 where there are none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


@dataclass(slots=True)
class _Client:
    """One client's window."""

    first_s: float | None = None
    last_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0

    def satisfied(self, now_s: float, seconds: float) -> bool:
        return (
            self.first_s is not None
            and now_s - self.first_s >= seconds
            and len(self.latencies_s) + self.errors >= _ANSWERS_AT_LEAST
        )

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / (self.last_s - self.first_s) if self.first_s and self.latencies_s else 0.0


class _Load:
    def __init__(self, url: str, bodies: list[bytes], clients: int, seconds: float) -> None:
        self._url = url
        self._bodies = bodies
        self._seconds = seconds
        self._sent = 0
        self.clients = [_Client() for _ in range(clients)]

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            began_s = time.perf_counter()
            await asyncio.gather(*(self._work(client, session, began_s) for client in self.clients))

    async def _work(self, client: _Client, session: aiohttp.ClientSession, began_s: float) -> None:
        while not self._over(began_s):
            body = self._bodies[self._sent % len(self._bodies)]
            self._sent += 1
            sent_s = time.perf_counter()
            good = await self._ask(session, body)
            now_s = time.perf_counter()
            if client.first_s is None:
                client.first_s = now_s if now_s - began_s >= _WARM_UP_S else None
                continue
            client.last_s = now_s
            client.errors += not good
            if good:
                client.latencies_s.append(now_s - sent_s)

    def _over(self, began_s: float) -> bool:
        """All clients stop together, so that the last ones are not measured against an emptier server."""
        now_s = time.perf_counter()
        return now_s - began_s > max(_LONGEST_S, 2 * self._seconds) or all(
            client.satisfied(now_s, self._seconds) for client in self.clients
        )

    async def _ask(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        try:
            async with session.post(self._url, data=body) as reply:
                await reply.read()
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def main() -> None:
    """Reads a specification from standard input and writes the measurement to standard output."""
    asked = json.load(sys.stdin)
    bodies = [json.dumps(body).encode() for body in asked["bodies"]]
    load = _Load(asked["url"], bodies, asked["clients"], asked["seconds"])
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    asyncio.run(load.run())
    cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
    ordered_ms = sorted(latency * 1000 for client in load.clients for latency in client.latencies_s)
    measurement = Measurement(
        clients=asked["clients"],
        requests=len(ordered_ms),
        errors=sum(client.errors for client in load.clients),
        per_s=round(sum(client.per_s for client in load.clients), 3),
        p50_ms=round(percentile(ordered_ms, 50), 3),
        p95_ms=round(percentile(ordered_ms, 95), 3),
        p99_ms=round(percentile(ordered_ms, 99), 3),
        cpu_share=round(cpu_share, 4),
    )
    json.dump(asdict(measurement), sys.stdout)


if __name__ == "__main__":
    main()
