"""A language model's provider for `make bench-autointerp`, in a process of its own: OpenAI's form, latencies drawn.

    with Provider(Latency()) as provider:  provider.url -> one side of the benchmark;  provider.figures() at its end

A latency is drawn for each call in the order of arrival, from a stream with a fixed seed, so both sides wait the same.
It is log-normal: half of all calls below the median, and a long tail, as hosted models have.

It explains everything alike and judges each text by a hash of its words, marks left out. So a score does not depend on
which texts were asked about together, and both sides must come to the same one.
"""

import asyncio
import json
import math
import random
import re
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import httpx
import orjson
from aiohttp import web

from benchmarks.load import percentile

_EXAMPLE = re.compile(r"^Example \d+: ?", re.MULTILINE)
_MARKS = re.compile(r"<<|>>")
_LARGEST_QUESTION_BYTES = 2**26
_CHARACTERS_PER_TOKEN = 4
_STOP_TIMEOUT_S = 10.0
_FIGURES_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls take.

    Attributes:
        median_s: Half take less.
        sigma: Of the logarithm; 0.5 lets one call in twenty take more than 2.3 medians.
        seed: Decides all of them.
    """

    median_s: float = 0.8
    sigma: float = 0.5
    seed: int = 0

    def drawn(self) -> "random.Random":
        """The stream that `next_s` draws from."""
        return random.Random(self.seed)

    def next_s(self, stream: random.Random) -> float:
        """One latency."""
        return stream.lognormvariate(math.log(self.median_s), self.sigma)


@dataclass(slots=True)
class _Seen:
    """What was seen since the start."""

    in_flight: int = 0
    peak_in_flight: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "calls": len(self.latencies_s),
            "peak_in_flight": self.peak_in_flight,
            "latency_p50_s": percentile(sorted(self.latencies_s), 50),
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }


class Provider:
    """The provider, alive inside a `with` block.

    Attributes:
        url: What `/chat/completions` is added to.
    """

    def __init__(self, latency: Latency) -> None:
        self._latency = latency

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.autointerp_provider", json.dumps(asdict(self._latency))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the provider ended with status {self._process.wait()}")
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def figures(self) -> dict[str, float]:
        """`calls`, `peak_in_flight`, `latency_p50_s` as drawn, and the provider's own `cpu_s`."""
        return httpx.get(f"{self.url}/figures", timeout=_FIGURES_TIMEOUT_S, trust_env=False).json()


def answer(question: str) -> str:
    """What is said to the last message of a conversation."""
    _, *texts = _EXAMPLE.split(question)
    if not texts:
        return "The marked words have a theme in common.\n[EXPLANATION]: Words of one theme."
    return json.dumps([judged(text) for text in texts])


def judged(text: str) -> int:
    """1 or 0, by the words of a text."""
    return zlib.crc32(_MARKS.sub("", text).strip().encode()) & 1


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """A whole answer in OpenAI's form."""
    messages = asked["messages"]
    text = answer(messages[-1]["content"])
    read = sum(len(message["content"]) for message in messages) // _CHARACTERS_PER_TOKEN
    written = len(text) // _CHARACTERS_PER_TOKEN
    return {
        "id": "made-up",
        "object": "chat.completion",
        "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


async def serve(latency: Latency) -> None:
    """Serves on a free port of this machine, which is printed, until the process is ended."""
    seen, stream = _Seen(), latency.drawn()

    async def complete(request: web.Request) -> web.Response:
        began_s = time.perf_counter()
        seen.in_flight += 1
        seen.peak_in_flight = max(seen.peak_in_flight, seen.in_flight)
        wait_s = latency.next_s(stream)
        seen.latencies_s.append(wait_s)
        try:
            reply = completion(orjson.loads(await request.read()))
            await asyncio.sleep(wait_s - (time.perf_counter() - began_s))  # reading is part of the latency
            return web.Response(body=orjson.dumps(reply), content_type="application/json")
        finally:
            seen.in_flight -= 1

    async def figures(_: web.Request) -> web.Response:
        return web.json_response(seen.figures())

    app = web.Application(client_max_size=_LARGEST_QUESTION_BYTES)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/figures", figures)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


def main(words: Sequence[str]) -> None:
    """Serves with the latencies named on the command line."""
    (word,) = words
    asyncio.run(serve(Latency(**json.loads(word))))


if __name__ == "__main__":
    main(sys.argv[1:])
