"""The arrows of the house: who may import whom, and what a process that holds no weights must not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"core", "cluster", "deployments", "benchmarks", "tests"}

# Package: packages of ours that it may import.
ARROWS = {
    "core": {"core"},
    "cluster": {"cluster", "core"},
    "deployments": {"deployments", "cluster", "core"},
    "benchmarks": {"benchmarks", "deployments", "cluster", "core"},
}
SERVING = {"ray", "fastapi", "starlette", "uvicorn"}
HEAVY = {"torch", "sae_lens", "transformer_lens", "transformers", "vllm", "safetensors"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every module that a source text imports, with the line, wherever it stands; relative ones are written out.

    Args:
        source: The text.
        package: The package that the module lies in, outermost first.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The same for a file of the repository."""
    return imports_of(path.read_text(), path.relative_to(ROOT).parent.parts)


def offences(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(path)
        if name.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_only_what_its_arrow_points_at(package: str) -> None:
    assert modules(package)
    assert offences(package, OURS - ARROWS[package]) == []


def test_core_knows_neither_ray_nor_http() -> None:
    assert offences("core", SERVING) == []


def test_circuit_tracer_stays_in_its_own_environment() -> None:
    """Only the scripts that run there import it, and nothing here imports those scripts' modules but the meter."""
    scripts = ROOT / "core" / "graph" / "circuit_tracer" / "worker"
    importers = {
        path.parent
        for package in ARROWS
        for path in modules(package)
        for _, name in imported(path)
        if name.split(".")[0] == "circuit_tracer"
    }
    assert importers == {scripts}
    borrowed = {name for package in ARROWS for path in modules(package) for _, name in imported(path)}
    worker = "core.graph.circuit_tracer.worker"
    assert {name for name in borrowed if name.startswith(worker)} <= {f"{worker}.meter"}


def test_annotations_of_deployments_are_not_postponed() -> None:
    """Ray reads a builder's annotations; a string in their place makes it hand over a raw dict."""
    postponed = [
        str(path.relative_to(ROOT))
        for path in modules("deployments")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
    ]
    assert postponed == []


def test_imports_are_recognised_wherever_they_stand() -> None:
    source = """
import ray.serve as serve, numpy
from core import errors
from . import text
from ..wire.base import render
def late():
    from fastapi import FastAPI
    return importlib.import_module("torch")
"""
    found = [name for _, name in imports_of(source, ("core", "exchange"))]
    assert sorted(found) == ["core", "core.exchange", "core.wire.base", "fastapi", "numpy", "ray.serve", "torch"]


def loaded_by(*names: str) -> set[str]:
    """The top-level packages in memory after a fresh interpreter has imported these modules."""
    code = f"import sys, {', '.join(names)}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(ran.stdout.split())


def test_the_gateway_starts_without_a_model_library() -> None:
    """Its image need not have one, and its replicas start in a second."""
    loaded = loaded_by("deployments.gateway.gateway")
    assert {"ray", "fastapi", "core"} <= loaded
    assert not loaded & HEAVY


def test_what_crosses_process_borders_imports_no_torch() -> None:
    names = ("core.questions", "core.errors", "core.ranking", "core.catalogue.description", "core.exchange.rankings")
    assert not loaded_by(*names) & HEAVY
