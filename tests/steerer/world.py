"""A tiny random model on a real vLLM engine, one per test module: starting one takes half a minute."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from core.deadline import Deadline
from core.generation.requests import Growth
from core.steerer.engine import SteeredEngine
from core.steerer.settings import EngineSettings
from tests.steerer.truth import Case, Truth, mixture

T = TypeVar("T")
WIDTH = 128
LAYERS = 4
VOCABULARY = 400
POSITIONS = 512


def deadline() -> Deadline:
    return Deadline.after(240)


class World:
    """An engine, the loop that it lives on, and the truth about its model."""

    def __init__(self, runner: asyncio.Runner, engine: SteeredEngine, truth: Truth) -> None:
        self._runner = runner
        self.engine = engine
        self.truth = truth

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def write(self, cases: Sequence[Case]) -> list[Growth]:
        """All at once."""
        return self.run(
            self.engine.generate([c.continuation for c in cases], [c.interventions for c in cases], deadline())
        )

    def check(self, cases: Sequence[Case]) -> None:
        """The engine writes what the truth says and finds it as likely, and steering shows."""
        wrong: list[str] = []
        silent: list[str] = []
        for case, growth in zip(cases, self.write(cases), strict=True):
            truth = self.truth.write(case)
            if growth.tokens != truth.tokens:
                wrong.append(f"{case.name}: {growth.tokens} instead of {truth.tokens}")
            elif farthest(truth.logprobs, [score.logprob for score in growth.scores]) > 1e-3:
                wrong.append(f"{case.name}: {growth.scores} instead of {truth.logprobs}")
            if case.writes and farthest(truth.logprobs, self.truth.write(case.unsteered()).logprobs) < 1e-2:
                silent.append(case.name)
        assert not wrong, "\n".join(wrong)
        # The last layer's output at a prompt's inner positions reaches nothing.
        assert len(silent) <= len(cases) / 8, silent

    def mixture(self) -> list[Case]:
        facts = self.engine.facts
        return mixture(facts.width, facts.n_layers, facts.vocabulary)

    async def sequences(self) -> list[str]:
        return [name for report in await self.engine.report() for name in report["sequences"]]


def farthest(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition that asks the engine."""
    async with asyncio.timeout(60):
        while not await condition():
            pass


def preemptions() -> int:
    """How often a sequence lost its cache, in this process's engines so far."""
    return _counted("vllm:num_preemptions")


def hits() -> int:
    """Tokens whose keys and values were found in the cache, likewise."""
    return _counted("vllm:prefix_cache_hits")


def _counted(name: str) -> int:
    from vllm.v1.metrics.reader import Counter, get_metrics_snapshot

    return sum(metric.value for metric in get_metrics_snapshot() if isinstance(metric, Counter) and metric.name == name)


def save_llama(folder: Path, **changes: Any) -> str:
    from transformers import LlamaConfig

    return save_model(folder, LlamaConfig(**sizes(), **changes))


def sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def save_model(folder: Path, config: Any) -> str:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return str(folder)


@contextmanager
def world(
    folder: str, *, dtype: str = "float32", environ: dict[str, str] | None = None, **settings: Any
) -> Iterator[World]:
    """Starts an engine and ends it."""
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        **(environ or {}),
    }
    engine_arguments = {"block_size": 32, **settings.pop("engine", {})}
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        for name, value in variables.items():
            patch.setenv(name, value)
        engine = runner.run(
            SteeredEngine.start(EngineSettings(folder, dtype=dtype, engine=engine_arguments, **settings))
        )
        try:
            yield World(runner, engine, Truth(folder))
        finally:
            runner.run(engine.aclose())
