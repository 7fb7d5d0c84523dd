"""A front door without HTTP: JSON in, JSON out, through the wire models, the route's exchange and a real engine."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from core.activations import ActivationEngine, SaeBudget
from core.batching import BatchLimits
from core.catalogue.catalogue import find_model
from core.catalogue.description import Limits, ModelDescription, RunnerDescription
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.shape import ModelShape
from core.exchange.served import ServedModel
from core.prompts import PromptTokenizer
from core.wire.base import WireModel, render
from tests.gpt2_with_saes import Gpt2WithSaes
from tests.tiny_models import GPT2_ID

TOKEN_LIMIT = 40
GENERATION_LIMIT = 60
BATCH_LIMIT = 4
MAX_NUM_RESULTS = 200
BOS = "<|endoftext|>"


@dataclass
class Front:
    """One served model and the loop that its engine lives on."""

    served: ServedModel
    engine: ActivationEngine
    runner: asyncio.Runner

    def answer(self, route: Callable[..., Any], body: dict[str, Any]) -> Any:
        """What a client that posts `body` to a route that asks questions reads back."""
        asked = route(self.parsed(route, body), self.served)
        answers = self.runner.run(self.engine.ask(asked.questions, Deadline.after(120)))
        return self.read(asked.reply(answers))

    def look_up(self, route: Callable[..., Any], body: dict[str, Any], reply: Callable[..., Any]) -> Any:
        """The same for a route that needs weights only; `reply` takes the answer, some after the request."""
        request = self.parsed(route, body)
        found = self.runner.run(self.engine.look_up(route(request, self.served), Deadline.after(120)))
        return self.read(reply(found) if "request" not in get_type_hints(reply) else reply(request, found))

    def compute(self, route: Callable[..., Any], body: dict[str, Any]) -> Any:
        """The same for a route that the front door answers alone."""
        return self.read(route(self.parsed(route, body), self.served))

    @staticmethod
    def parsed(route: Callable[..., Any], body: dict[str, Any]) -> Any:
        """The body as the route's own request model reads it from JSON."""
        return get_type_hints(route)["request"].model_validate(json.loads(json.dumps(body)))

    @staticmethod
    def read(response: WireModel) -> Any:
        """The reply's JSON; NaN and the infinities would not be JSON."""

        def refuse(constant: str) -> Any:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(render(response, "camel"), parse_constant=refuse)


@contextmanager
def open_front(world: Gpt2WithSaes, tokenizer: Any) -> Iterator[Front]:
    """Serves the tiny GPT-2 with all its SAEs, with any tokenizer of its vocabulary."""
    sources = tuple(world.sources.values())
    description = ModelDescription(
        names=find_model("gpt2-small"),
        weights=GPT2_ID,
        revision=None,
        dtype="float32",
        device="cpu",
        shape=ModelShape.from_config(world.hf.config),
        limits=Limits(TOKEN_LIMIT, GENERATION_LIMIT, BATCH_LIMIT, MAX_NUM_RESULTS),
        runners=(RunnerDescription("Runner", sources, 16),),
    )

    async def opened() -> ActivationEngine:
        return ActivationEngine(
            world.eager,
            DeviceExecutor("cpu"),
            sources,
            sae_dtype="float32",
            budget=SaeBudget(2**30),
            limits=BatchLimits(budget_tokens=512, max_entries=16, max_queued_tokens=4096),
        )

    with asyncio.Runner() as runner:
        engine = runner.run(opened())
        try:
            yield Front(ServedModel(description, PromptTokenizer(tokenizer)), engine, runner)
        finally:
            runner.run(engine.aclose())


def near(wanted: Any) -> Any:
    """What a float32 pass may differ by from another one, for a number, a list or an array; null is null."""
    return None if wanted is None else pytest.approx(np.asarray(wanted).tolist(), rel=2e-4, abs=2e-4)


def prompt_of(n_tokens: int) -> str:
    """A text of so many tokens, BOS included: no merge joins these letters."""
    return "Q" * (n_tokens - 1)


def tokenizer_file(hub: Path) -> Path:
    """The tiny GPT-2's tokenizer in the fake hub."""
    folder = f"models--{GPT2_ID.replace('/', '--')}"
    return next(hub.rglob(f"{folder}/snapshots/*/tokenizer.json"))
