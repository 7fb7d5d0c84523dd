"""circuit-tracer, where its environment is installed; these tests are skipped where it is not."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from core.graph.circuit_tracer.engine import CircuitTracer
from core.graph.circuit_tracer.process import ENVIRONMENT_VARIABLE, interpreter

from .worlds import MakeWorld, World

_USUAL = Path(__file__).parents[2] / ".venv-oracle" / "bin" / "python"


@pytest.fixture(scope="session")
def oracle_python() -> Path:
    """The interpreter that is named, `make test-oracle` names one; else the usual one if it is there."""
    if ENVIRONMENT_VARIABLE in os.environ:
        return interpreter()
    if not _USUAL.exists():
        pytest.skip("circuit-tracer is not installed; `make oracle` does that")
    return _USUAL


@pytest.fixture(scope="module")
def circuit_tracer(oracle_python: Path) -> Iterator[CircuitTracer]:
    """circuit-tracer without a model, one process for a whole module."""
    with CircuitTracer(oracle_python, timeout_s=300, threads=1) as tracer:
        yield tracer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MakeWorld:
    """Makes the world of a case, once."""
    root = tmp_path_factory.mktemp("oracle")
    return cache(lambda case: World(case, root))
