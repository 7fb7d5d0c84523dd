"""The steering routes over HTTP without a cluster: a client of the engine that says what the test wants."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from cluster.arguments import GatewayArgs, SecretSource
from core.deadline import Deadline
from core.demo import ARTEFACTS
from core.demo.tokenizer import load_tokenizer
from core.errors import DeadlineExceeded, Overloaded, RayscopeError
from core.exchange.served import ServedModel
from core.generation.engine import join_growths
from core.generation.requests import Continuation, Growth
from core.residency import ResidencyStats
from deployments.gateway.desk import Desk
from deployments.gateway.door import Door
from deployments.gateway.errors import install_error_handlers
from deployments.gateway.steering_routes import add_steering_routes
from tests.unit.exchange.writers import DEMO, asked, growths, served

TEXTS = [" en la alfombra", " sur le tapis."]
TEXT = asked(prompt="Le chat dort")
CHAT = asked(prompt=[{"role": "user", "content": "Où ?"}], steerSpecialTokens=True)


class Engine:
    """Stands in for `ModelClient`: writes `TEXTS`, or fails after so many reports."""

    def __init__(self, error: RayscopeError | None = None, reports: int = 0) -> None:
        self.served: ServedModel = served(load_tokenizer(ARTEFACTS / "model"))
        self.description = self.served.description
        self.deadlines: list[Deadline] = []
        self._error = error
        self._reports = reports

    async def generate(self, continuations: Sequence[Continuation], deadline: Deadline) -> list[Growth]:
        parts = [growth async for growths in self.stream(continuations, deadline) for growth in growths]
        return [join_growths(at, [part for part in parts if part.index == at]) for at in range(len(continuations))]

    async def stream(self, continuations: Sequence[Continuation], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        self.deadlines.append(deadline)
        for at, reported in enumerate(growths(self.served, TEXTS[: len(continuations)], "stop")):
            if self._error is not None and at == self._reports:
                raise self._error
            yield reported

    async def report(self, runner: str, deadline: Deadline) -> dict[str, Any]:
        return {
            "residency": ResidencyStats(*range(100, 109)),
            "queue_time_s": 1.5,
            "generating": 3 if runner == "Runner" else 0,
            "waiting": 2,
            "process_ram_bytes": 2**20,
        }


class Directory:
    """Knows one model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def find(self, model: str | None) -> Engine:
        assert model in (DEMO, None)
        return self._engine


def call(engine: Engine, path: str, body: Any = None, secret: SecretSource | None = None, **headers: str) -> Any:
    """What a client that sends `body`, or asks with GET, gets back."""
    args = GatewayArgs(secret=secret or SecretSource(env="NO_SUCH_VARIABLE", file=None))

    async def send() -> httpx.Response:
        directory: Any = Directory(engine)
        nothing: Any = None
        desk = Desk(args, directory, nothing)
        app = FastAPI()
        install_error_handlers(app)
        add_steering_routes(app, desk)
        app.add_middleware(Door, secret=desk.secret, max_body_bytes=args.max_body_bytes)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://front", headers=headers) as client:
            return await (client.get(path) if body is None else client.post(path, json=body))

    return asyncio.run(send())


def test_a_text_and_a_conversation_are_answered_whole() -> None:
    outputs = call(Engine(), "/v1/steer/completion", TEXT).json()["outputs"]
    assert [output["output"] for output in outputs] == TEXTS
    answer = call(Engine(), "/v1/steer/completion-chat", CHAT).json()
    assert [output["chatTemplate"][-1]["content"] for output in answer["outputs"]] == [text.strip() for text in TEXTS]


@pytest.mark.parametrize(("path", "body"), [("/v1/steer/completion", TEXT), ("/v1/steer/completion-chat", CHAT)])
def test_the_last_event_of_a_stream_is_the_whole_answer(path: str, body: Any) -> None:
    whole = call(Engine(), path, body)
    streamed = call(Engine(), path, body | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    frames = streamed.content.split(b"\n\n")
    assert frames.pop() == b""
    assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames)
    assert frames[-1] == b"data: " + whole.content
    assert len(frames) > 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_anything_is_written_has_its_status(stream: bool) -> None:
    engine = Engine(Overloaded("Too many texts wait.", "Retry.", 4.2))
    refused = call(engine, "/v1/steer/completion", TEXT | {"stream": stream})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    mistaken = call(Engine(), "/v1/steer/completion", TEXT | {"stream": stream, "features": []})
    assert (mistaken.status_code, mistaken.json()["code"]) == (400, "invalid_request")


def test_what_fails_later_ends_the_stream_with_an_error_event() -> None:
    engine = Engine(DeadlineExceeded("The deadline passed.", "Allow more time."), reports=2)
    streamed = call(engine, "/v1/steer/completion", TEXT | {"stream": True}, **{"x-request-id": "r1"})
    assert streamed.status_code == 200
    *parts, failure, end = streamed.text.split("\n\n")
    assert len(parts) == 2
    assert end == ""
    name, data = failure.split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "error": "The deadline passed.",
        "code": "deadline_exceeded",
        "hint": "Allow more time.",
        "requestId": "r1",
    }


def test_a_reply_follows_the_casing_of_its_request() -> None:
    spelled = {"steerMethod": "steer_method", "steerSpecialTokens": "steer_special_tokens"}
    body = {spelled.get(key, key): value for key, value in CHAT.items()}
    assert "chat_template" in call(Engine(), "/v1/steer/completion-chat", body).json()["input"]


def test_the_older_route_carries_its_secret_in_the_body(tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("sesame")
    locked = SecretSource(env=None, file=str(tmp_path / "secret"))
    body = {
        "prompt": "Le chat dort",
        "model": DEMO,
        "types": ["default"],
        "n_completion_tokens": 5,
        "temperature": 0,
    }
    assert call(Engine(), "/completion", body, locked).status_code == 401
    answer = call(Engine(), "/completion", body | {"secret": "sesame"}, locked)
    assert answer.json() == {"default": {"raw": f"<bos>Le chat dort{TEXTS[0]}"}}
    assert call(Engine(), "/v1/steer/completion", TEXT, locked).status_code == 401


def test_health_says_how_much_is_being_written() -> None:
    answer = call(Engine(), "/v1/steer/health").json()
    assert answer["stats"]["num_running_requests"] == 3
    assert answer["stats"]["model_name"] == DEMO
    assert answer["stats"]["engine_initialized"] is True
    assert "3 texts are being written" in answer["summary"]
