"""circuit-tracer's answers as our own types.

It finds its features, ranks and attributes them itself, so it has no part in `core.graph.linearised`'s row protocol:
its graphs can not be stopped half-way, packed with others or continued elsewhere. One process attributes one prompt at
a time. It is here to be compared with, and for whoever wants a graph exactly as circuit-tracer makes it.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.graph.circuit_tracer.checkpoint import export
from core.graph.circuit_tracer.process import WorkerProcess
from core.graph.effects import Effects, FeatureNodes, LogitNodes

Backend = Literal["nnsight", "transformerlens"]

_WORKER = Path(__file__).parent / "worker"


@dataclass(frozen=True, slots=True)
class Settings:
    """What of `circuit_tracer.attribute` may be chosen; its names and, but for batches, its defaults.

    Attributes:
        max_n_logits: Most targets that are chosen by probability.
        desired_logit_prob: Probability at which no further target is chosen.
        max_feature_nodes: Features in the graph, K; all if None.
        batch_size: Rows of one backward pass.
        update_interval: Batches between two rankings.
        targets: Vocabulary ids instead of the most probable ones.
    """

    max_n_logits: int = 10
    desired_logit_prob: float = 0.95
    max_feature_nodes: int | None = None
    batch_size: int = 48
    update_interval: int = 4
    targets: tuple[int, ...] | None = None

    def as_arguments(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost circuit-tracer's process.

    Attributes:
        wall_s: Seconds that passed.
        cpu_s: Seconds of all threads together.
        before_bytes: Resident memory of the process before.
        peak_bytes: Most of it at any moment meanwhile.
        before_own_bytes: Of that, what has no file behind it, before.
        peak_own_bytes: Most of it meanwhile.
    """

    wall_s: float
    cpu_s: float
    before_bytes: int
    peak_bytes: int
    before_own_bytes: int
    peak_own_bytes: int

    def as_figures(self) -> dict[str, float]:
        """By name, as `worker.meter.Meter.cost` has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """What circuit-tracer keeps of a graph.

    Attributes:
        nodes: `[N]` bool: features, errors, tokens, logits.
        edges: `[K + m, N - m]` bool, as `Effects.weights`.
        cumulative: `[N]` float32, the share of influence of a node and all that have more.
        replacement: The replacement score of the whole graph.
        completeness: Its completeness score.
        cost: What pruning took, scores not counted.
    """

    nodes: Tensor
    edges: Tensor
    cumulative: Tensor
    replacement: float
    completeness: float
    cost: Cost


class CircuitTracer:
    """circuit-tracer with one model and one transcoder set at a time.

    Errors are those of `WorkerProcess.ask`, for all methods.
    """

    def __init__(self, python: Path, *, timeout_s: float, threads: int | None = None) -> None:
        """Starts its process.

        Args:
            python: The interpreter of its environment, `process.interpreter()` for example.
            timeout_s: How long any answer may take.
            threads: torch's threads there; torch's own choice if None.

        Raises:
            Unavailable: There is no such interpreter.
        """
        self._worker = WorkerProcess([python, _WORKER])
        self._folder = tempfile.TemporaryDirectory(prefix="circuit-tracer-", ignore_cleanup_errors=True)
        self._timeout_s = timeout_s
        self._threads = threads

    @property
    def alive(self) -> bool:
        """Whether it can still be asked; it can not be after an answer that was late."""
        return self._worker.alive

    def load(
        self,
        model: Path,
        transcoders: Path | str,
        backend: Backend,
        *,
        name: str | None = None,
        lazy_encoder: bool = False,
    ) -> Cost:
        """Loads a model and a transcoder set, and forgets those before.

        Args:
            model: A folder with weights and tokenizer, of whichever transformers.
            transcoders: A folder in circuit-tracer's layout, or a Hugging Face reference.
            backend: Which of circuit-tracer's.
            name: What the model is called, if not as its folder: circuit-tracer knows instruction-tuned Gemma 3 by it.
            lazy_encoder: Whether encoders stay on disk.

        Raises:
            ValueError: The model can not be written for circuit-tracer's transformers.
        """
        older = Path(tempfile.mkdtemp(dir=self._folder.name)) / (name or model.name).rsplit("/", 1)[-1]
        older.mkdir()
        export(model, older)
        answer = self._ask(
            "load",
            model=str(older),
            transcoders=str(transcoders.resolve()) if isinstance(transcoders, Path) else transcoders,
            backend=backend,
            lazy_encoder=lazy_encoder,
            threads=self._threads,
        )
        return Cost(**answer["cost"])

    def attribute(
        self, token_ids: tuple[int, ...], settings: Settings, *, timeout_s: float | None = None
    ) -> tuple[Effects, Cost]:
        """Attributes a prompt with what was loaded last; what its features at position 0 do is not in the graph.

        Args:
            token_ids: The prompt, BOS included; nothing is added to it. circuit-tracer fails at a single token.
            settings: How.
            timeout_s: How long it may take, if not as long as everything else.
        """
        with self._file() as path:
            answer = self._worker.ask(
                "attribute",
                timeout_s=self._timeout_s if timeout_s is None else timeout_s,
                token_ids=token_ids,
                output=str(path),
                **settings.as_arguments(),
            )
            found = load_file(path)
        effects = Effects(
            token_ids=token_ids,
            n_layers=answer["n_layers"],
            features=FeatureNodes(found["layer"], found["position"], found["index"], found["activation"]),
            logits=LogitNodes(tuple(found["logit_ids"].tolist()), tuple(answer["labels"]), found["probabilities"]),
            n_active=answer["n_active"],
            weights=found["weights"],
        )
        return effects, Cost(**answer["cost"])

    def prune(self, effects: Effects, node_threshold: float, edge_threshold: float) -> Pruned:
        """Prunes effects, whoever found them, as `circuit_tracer.graph.prune_graph` does."""
        with self._given(effects) as given, self._file() as path:
            answer = self._ask("prune", **_pruning(given, path, node_threshold, edge_threshold))
            found = load_file(path)
        return Pruned(
            found["nodes"],
            found["edges"],
            found["cumulative"],
            answer["replacement"],
            answer["completeness"],
            Cost(**answer["cost"]),
        )

    def document(self, effects: Effects, node_threshold: float, edge_threshold: float) -> tuple[bytes, Cost]:
        """Prunes effects and writes circuit-tracer's JSON of what is left, with the tokens of the model loaded last.

        Returns:
            The document, and what pruning and writing cost together.
        """
        with self._given(effects) as given, self._file() as path:
            answer = self._ask("document", **_pruning(given, path, node_threshold, edge_threshold))
            return path.read_bytes(), Cost(**answer["cost"])

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The tokens of a text as circuit-tracer has them, special ones included that it puts in front."""
        return tuple(self._ask("tokenize", text=text)["token_ids"])

    def close(self) -> None:
        """Ends its process, whatever it is doing."""
        self._worker.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        return self._worker.ask(do, timeout_s=self._timeout_s, **arguments)

    @contextmanager
    def _given(self, effects: Effects) -> Generator[Path]:
        """A file with effects as the worker reads them."""
        nodes = effects.features
        arrays = {
            "token_ids": torch.tensor(effects.token_ids),
            "layer": nodes.layer,
            "position": nodes.position,
            "index": nodes.index,
            "activation": nodes.activation,
            "logit_ids": torch.tensor(effects.logits.token_ids),
            "probabilities": effects.logits.probabilities,
            "weights": effects.weights,
        }
        with self._file() as path:
            save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, path)
            yield path

    @contextmanager
    def _file(self) -> Generator[Path]:
        """A path that is free, and free again afterwards."""
        descriptor, name = tempfile.mkstemp(dir=self._folder.name, suffix=".safetensors")
        os.close(descriptor)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _pruning(effects: Path, output: Path, node_threshold: float, edge_threshold: float) -> dict[str, Any]:
    return {
        "effects": str(effects),
        "output": str(output),
        "node_threshold": node_threshold,
        "edge_threshold": edge_threshold,
    }
