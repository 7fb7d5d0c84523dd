"""An OpenAI-compatible server in this process, which answers by a function and misbehaves on demand.

    async with FakeProvider(lambda call: "[1, 0]", [status(429, retry_after="2"), resets()]) as provider:
        ...                      # first call: a 429; second: the connection breaks; from then on: [1, 0]
        provider.calls, provider.peak_in_flight

It says what a provider says, usage included, and knows nothing of Rayscope. Tokens are words here.
"""

import asyncio
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from aiohttp import web


@dataclass
class Call:
    """One request.

    Attributes:
        number: 0 for the first that arrived.
        body: What was sent.
        headers: With what, names in lower case.
        in_flight: Requests being answered at its arrival, itself included.
    """

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    in_flight: int
    answered: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a completion of a plain text."""
        return "prompt" in self.body

    @property
    def prompt(self) -> str:
        """The plain text, or the last message."""
        return self.body["prompt"] if self.is_plain else self.body["messages"][-1]["content"]


Act: TypeAlias = Callable[["FakeProvider", Call, web.Request], Awaitable[web.StreamResponse]]
"""What is done with a call instead of answering it."""


def status(code: int, message: str = "no", *, retry_after: str | None = None, **error: Any) -> Act:
    """Answers with an error; `error` are further fields of its body (`code`, `param`, `metadata`)."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        body = {"error": {"message": message, "code": code, **error}}
        return web.json_response(body, status=code, headers=headers)

    return act


def says(body: bytes | dict[str, Any], code: int = 200, content_type: str = "application/json") -> Act:
    """Answers exactly this."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=raw, status=code, content_type=content_type)

    return act


def chooses(message: dict[str, Any], finish_reason: str = "stop") -> Act:
    """Answers with this message, and usage."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        reply = provider.completion(call, "")
        reply["choices"][0].update(message={"role": "assistant", **message}, finish_reason=finish_reason)
        return web.json_response(reply)

    return act


def malformed() -> Act:
    """Answers what is no JSON."""
    return says(b'{"choices": [{"message": ')


def null_content() -> Act:
    """Answers with no text."""
    return chooses({"content": None})


def refuses() -> Act:
    """Answers that it will not."""
    return chooses({"content": None, "refusal": "I can not help with that."})


def filtered() -> Act:
    """Answers with a text that its content filter cut off."""
    return chooses({"content": "It is"}, "content_filter")


def error_in_200(code: int, message: str = "upstream") -> Act:
    """Answers 200 with an error inside, as OpenRouter does once it has begun."""
    return says({"error": {"code": code, "message": message}})


def hangs() -> Act:
    """Never answers."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        await provider.closing.wait()
        return web.Response(status=503)

    return act


def resets() -> Act:
    """Breaks the connection."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return act


def after(event: asyncio.Event) -> Act:
    """Answers once the event is set."""

    async def act(provider: "FakeProvider", call: Call, request: web.Request) -> web.StreamResponse:
        await event.wait()
        return web.json_response(provider.completion(call, provider.answer(call)))

    return act


def lognormal(median_s: float, sigma: float = 0.5, seed: int = 0) -> Callable[[], float]:
    """Latencies as providers have them: half below the median, and a long tail."""
    source = random.Random(seed)
    return lambda: source.lognormvariate(math.log(median_s), sigma)


@dataclass
class FakeProvider:
    """The server.

    Attributes:
        answer: The text of a reply.
        acts: What is done with the first calls, in order, or with every call: None answers it.
        latency: Seconds before each answer.
        keys: Keys that are known; None: every one.
        prices: Dollars per token read and written, sent as `usage.cost` if given.
        calls: All calls so far.
        connections: Connections that calls came over.
        in_flight: Calls being answered.
        peak_in_flight: The most there were.
    """

    answer: Callable[[Call], str] = lambda call: "yes"
    acts: Iterable[Act | None] | Callable[[Call], Act | None] = ()
    latency: Callable[[], float] | None = None
    keys: frozenset[str] | None = None
    prices: tuple[float, float] | None = None
    calls: list[Call] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: set[object] = field(default_factory=set)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._script: Iterator[Act | None] = iter(()) if callable(self.acts) else iter(self.acts)
        self._changed = asyncio.Condition()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._handle)
        app.router.add_post("/v1/completions", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing.set()
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def until(self, condition: Callable[["FakeProvider"], bool]) -> None:
        """Waits until this holds after some call's arrival or end."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def completion(self, call: Call, text: str) -> dict[str, Any]:
        """A reply as OpenAI and vLLM write it."""
        body = call.body
        prompt = [word for message in body["messages"] for word in words(message["content"])]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 10**6
        written = words(text)[:limit]
        usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": len(written)}
        usage["total_tokens"] = sum(usage.values())
        if self.prices is not None:
            usage["cost"] = len(prompt) * self.prices[0] + len(written) * self.prices[1]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(written)},
            "finish_reason": "stop" if written == words(text) else "length",
        }
        if body.get("logprobs"):
            others = [{"token": f"other{n}", "logprob": -2.0 - n} for n in range(body.get("top_logprobs", 0) - 1)]
            choice["logprobs"] = {
                "content": [
                    {"token": word, "logprob": -0.25, "top_logprobs": [{"token": word, "logprob": -0.25}, *others]}
                    for word in written
                ]
            }
        reply = {"id": f"call-{call.number}", "model": body["model"], "choices": [choice], "usage": usage}
        if body.get("prompt_logprobs") is not None:
            reply["prompt_logprobs"] = [
                None,
                *(
                    {
                        str(n): {"logprob": -1.5, "rank": 2, "decoded_token": word},
                        str(10**6 + n): {"logprob": -0.5, "rank": 1, "decoded_token": f"not {word}"},
                    }
                    for n, word in enumerate(prompt[1:])
                ),
            ]
        return reply

    def plain_completion(self, call: Call, text: str) -> dict[str, Any]:
        """A reply to a plain text, as vLLM writes it: with `echo` the prompt is part of it."""
        body = call.body
        prompt, written = words(body["prompt"]), words(text)[: body["max_tokens"]]
        shown = [*(prompt if body.get("echo") else []), *written]
        choice: dict[str, Any] = {"index": 0, "text": "".join(shown), "finish_reason": "length"}
        if body.get("logprobs"):
            chances: list[float | None] = [-1.5] * len(shown)
            if body.get("echo"):
                chances[0] = None
            tops = [
                None if chance is None else {word: chance, f"not {word}": -0.5}
                for word, chance in zip(shown, chances, strict=True)
            ]
            choice["logprobs"] = {"tokens": shown, "token_logprobs": chances, "top_logprobs": tops}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(written)}
        return {"id": f"call-{call.number}", "model": body["model"], "choices": [choice], "usage": usage}

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.connections.add(request.protocol)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            call = Call(len(self.calls), await request.json(), headers, self.in_flight)
            self.calls.append(call)
            await self._tell()
            return await self._respond(call, request)
        finally:
            self.in_flight -= 1
            await self._tell()

    async def _respond(self, call: Call, request: web.Request) -> web.StreamResponse:
        key = call.headers.get("authorization", "").removeprefix("Bearer ")
        if self.keys is not None and key not in self.keys:
            said = {"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}
            return web.json_response(said, status=401)
        act = self.acts(call) if callable(self.acts) else next(self._script, None)
        if self.latency is not None:
            await asyncio.sleep(self.latency())
        if act is not None:
            return await act(self, call, request)
        call.answered = True
        form = self.plain_completion if call.is_plain else self.completion
        return web.json_response(form(call, self.answer(call)))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def words(text: str) -> list[str]:
    """A text's words, each with the space before it; they join to the text."""
    return re.findall(r"\s*\S+|\s+$", text)
