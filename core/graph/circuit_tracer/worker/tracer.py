"""circuit-tracer itself: the only module of the repository that imports it.

Results leave as the rectangle of `core.graph.effects`, not as circuit-tracer's square: what is left out of the square
is checked to be zero.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lens
import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.attribution.targets import LogitTarget
from circuit_tracer.graph import compute_graph_scores, prune_graph
from circuit_tracer.utils.create_graph_files import build_model, create_nodes, create_used_nodes_and_edges
from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
from meter import Meter
from safetensors.torch import load_file, save_file

Answer = dict[str, Any]


class Tracer:
    """One replacement model at a time."""

    def load(
        self,
        *,
        model: str,
        transcoders: str,
        backend: str,
        dtype: str = "float32",
        lazy_encoder: bool = False,
        lazy_decoder: bool = True,
        threads: int | None = None,
    ) -> Answer:
        """Loads a model folder and a transcoder set, forgetting those before.

        Args:
            model: Absolute path of a folder that transformers 4.57 reads.
            transcoders: Absolute path or Hugging Face reference.
            backend: `nnsight` or `transformerlens`.
            dtype: Of both.
            lazy_encoder: Whether encoders are read from disk at every use.
            lazy_decoder: Whether only active decoder rows are read.
            threads: torch's threads; torch's own choice if None.

        Returns:
            What loading cost.
        """
        self._model: Any = None
        if threads is not None:
            torch.set_num_threads(threads)
        device, kind = torch.device("cpu"), getattr(torch, dtype)
        with Meter() as meter:
            found, _ = load_transcoder_from_hub(
                transcoders, device=device, dtype=kind, lazy_encoder=lazy_encoder, lazy_decoder=lazy_decoder
            )
            if backend == "transformerlens":
                self._model = lens.build(model, found, kind)
            else:
                self._model = ReplacementModel.from_pretrained_and_transcoders(
                    model, found, backend=backend, device=device, dtype=kind
                )
        # Tokens are the caller's: circuit-tracer would put a special token before some prompts.
        object.__setattr__(self._model, "ensure_tokenized", lambda ids: ids)
        return {"cost": meter.cost}

    def attribute(
        self, *, token_ids: Sequence[int], output: str, targets: Sequence[int] | None = None, **options: Any
    ) -> Answer:
        """Attributes one prompt.

        Args:
            token_ids: The prompt as it is.
            output: Where the arrays go.
            targets: Vocabulary ids; the most probable ones if None.
            **options: Of `circuit_tracer.attribute`.

        Returns:
            `n_layers`, `n_active`, `labels` and what it cost.

        Raises:
            ValueError: The graph is not of the prompt, or has effects on nodes that can not be targets.
        """
        chosen = None if targets is None else torch.tensor(targets)
        with Meter() as meter:
            graph = attribute(torch.tensor(token_ids), self._model, attribution_targets=chosen, **options)
        if graph.input_tokens.tolist() != list(token_ids):
            raise ValueError(f"the graph is of {graph.input_tokens.tolist()}, not of {list(token_ids)}")
        selected = graph.active_features[graph.selected_features]
        n_logits = len(graph.logit_targets)
        save_file(
            {
                "token_ids": torch.tensor(token_ids),
                "layer": selected[:, 0].contiguous(),
                "position": selected[:, 1].contiguous(),
                "index": selected[:, 2].contiguous(),
                "activation": graph.activation_values[graph.selected_features].float().contiguous(),
                "logit_ids": torch.tensor([target.vocab_idx for target in graph.logit_targets]),
                "probabilities": graph.logit_probabilities.float().contiguous(),
                "weights": _rectangle(graph.adjacency_matrix, len(selected), n_logits),
            },
            output,
        )
        return {
            "n_layers": graph.cfg.n_layers,
            "n_active": len(graph.active_features),
            "labels": [target.token_str for target in graph.logit_targets],
            "cost": meter.cost,
        }

    def prune(self, *, effects: str, output: str, node_threshold: float, edge_threshold: float) -> Answer:
        """Prunes effects, whoever found them.

        Args:
            effects: File with the arrays that `attribute` writes.
            output: Where `nodes` `[N]`, `edges` `[K + m, N - m]` and `cumulative` `[N]` go.
            node_threshold: Share of influence that kept nodes have.
            edge_threshold: Share of influence that kept edges have.

        Returns:
            `replacement` and `completeness` of the whole graph, and what pruning alone cost.
        """
        graph = _graph(load_file(effects))
        with Meter() as meter:
            nodes, edges, cumulative = prune_graph(graph, node_threshold, edge_threshold)
        replacement, completeness = compute_graph_scores(graph)
        edges &= graph.adjacency_matrix != 0  # at a threshold of 1 there may be edges that are none
        edges = _rectangle(edges, len(graph.selected_features), len(graph.logit_targets))
        kept = {"nodes": nodes, "edges": edges, "cumulative": cumulative}
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, output)
        return {"replacement": replacement, "completeness": completeness, "cost": meter.cost}

    def document(self, *, effects: str, output: str, node_threshold: float, edge_threshold: float) -> Answer:
        """Writes the document of effects, with the tokens of the model that was loaded; arguments as in `prune`.

        Returns:
            What pruning and making its bytes cost.
        """
        graph, tokenizer = _graph(load_file(effects)), self._model.tokenizer
        with Meter() as meter:
            kept, edges, cumulative = prune_graph(graph, node_threshold, edge_threshold)
            nodes = create_nodes(graph, kept, tokenizer, cumulative)
            used_nodes, used_edges = create_used_nodes_and_edges(graph, nodes, edges)
            model = build_model(graph, used_nodes, used_edges, "slug", "scan", node_threshold, tokenizer)
            content = json.dumps(model.model_dump())
        Path(output).write_text(content, encoding="utf-8")
        return {"cost": meter.cost}

    def tokenize(self, *, text: str) -> Answer:
        """The tokens that a text has, special ones in front included."""
        return {"token_ids": type(self._model).ensure_tokenized(self._model, text).tolist()}


def _graph(found: dict[str, torch.Tensor]) -> Any:
    """What pruning and documents need of a `circuit_tracer.Graph`, made from the arrays that `attribute` writes."""
    n_features, n_logits = len(found["layer"]), len(found["logit_ids"])
    n_sources, n_positions = found["weights"].shape[1], len(found["token_ids"])
    square = torch.zeros(n_sources + n_logits, n_sources + n_logits)
    square[:n_features, :n_sources] = found["weights"][:n_features]
    square[n_sources:, :n_sources] = found["weights"][n_features:]
    return SimpleNamespace(
        adjacency_matrix=square,
        input_tokens=found["token_ids"],
        input_string="",
        n_pos=n_positions,
        active_features=torch.stack([found["layer"], found["position"], found["index"]], 1),
        selected_features=torch.arange(n_features),
        activation_values=found["activation"],
        logit_targets=[LogitTarget("", vocab_idx) for vocab_idx in found["logit_ids"].tolist()],
        logit_probabilities=found["probabilities"],
        cfg=SimpleNamespace(n_layers=(n_sources - n_features) // n_positions - 1),
    )


def _rectangle(square: torch.Tensor, n_features: int, n_logits: int) -> torch.Tensor:
    """Rows of features and logits, columns of everything but logits.

    Raises:
        ValueError: Something else is not zero.
    """
    n_sources = len(square) - n_logits
    if square[n_features:n_sources].any() or square[:, n_sources:].any():
        raise ValueError("errors and tokens have causes, or logits have effects")
    return torch.cat([square[:n_features, :n_sources], square[n_sources:, :n_sources]]).contiguous()
