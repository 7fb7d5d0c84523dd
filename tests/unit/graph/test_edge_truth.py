"""An edge is what one source adds to one target while all else is held: measured, with nothing of ours in between."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from core.demo import ARTEFACTS
from core.engine.model import EagerModel
from core.graph.autograd import Autograd
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised, TargetRows
from core.graph.replay import Replay
from core.graph.tracing import trace
from core.graph.transcoders.transcoder import ReadSite, TranscoderSet, TranscoderShape, WriteSite

from .architectures import ARCHITECTURES, D_MODEL, N_LAYERS, REPLAYED, Architecture, eager_model
from .held import Held, Ran
from .plain_sets import KINDS, PlainSet, random_set

IDS = (7, 3, 22, 60, 1, 44, 9)
ZEROED = 1
TOKENS = (5, 17, 40)
NEAR = 1e-9

SITES = [
    (name, site) for name, architecture in ARCHITECTURES.items() for site in architecture.sites if site != "mlp_in"
]


class Case:
    """A graph of everything, and the same model held fixed.

    `engine` makes the graph's linear model; `transcoders` are what its transcoders are in truth.
    """

    def __init__(
        self,
        model: EagerModel,
        architecture: Architecture,
        transcoders: PlainSet,
        engine: Callable[[EagerModel], Linearised],
        ids: Sequence[int] = IDS,
        tokens: Sequence[int] = TOKENS,
    ) -> None:
        shape = transcoders.shape
        self.transcoders, self.tokens = transcoders, list(tokens)
        self.held = Held(model.module, architecture, tuple(ids), shape.reads, shape.writes, transcoders.skips)
        self.linear = engine(model)
        self.layers, self.length = range(shape.n_layers), len(ids)
        unembedding = model.module.get_output_embeddings().weight
        directions = (unembedding - unembedding.mean(0))[self.tokens]
        rows = TargetRows(
            torch.full((len(tokens),), shape.n_layers), torch.full((len(tokens),), len(ids) - 1), directions
        )
        self.effects = torch.cat(
            [self.linear.rows(self.linear.targets(torch.arange(len(self.linear.features)))), self.linear.rows(rows)]
        )

    @property
    def n_features(self) -> int:
        return len(self.linear.features)

    def feature(self, number: int) -> dict[int, Tensor]:
        """What a feature wrote, layer by layer."""
        nodes = self.linear.features
        layer, position, index = (int(part[number]) for part in (nodes.layer, nodes.position, nodes.index))
        value = self.transcoders.dense(layer, self.held.read[layer])[position, index]
        return {
            layer + slot: self._at(position, value * row)
            for slot, row in enumerate(self.transcoders.decoder[layer][index])
        }

    def error(self, layer: int, position: int) -> dict[int, Tensor]:
        """What the transcoders missed of an MLP output."""
        read, sets = self.held.read, self.transcoders
        explained = sets.bias[layer].expand_as(self.held.wrote[layer])
        for source in range(layer + 1) if sets.shape.cross_layer else (layer,):
            explained = explained + sets.dense(source, read[source]) @ sets.decoder[source][:, layer - source]
        matrix = sets.skips[layer]
        if matrix is not None:
            explained = explained + read[layer] @ matrix.T
        return {layer: self._at(position, (self.held.wrote[layer] - explained)[position])}

    def column(self, added: dict[int, Tensor] | None = None, embedded: Tensor | float = 0.0) -> Tensor:
        """How all targets change when something is taken away, the other way round."""
        less = {layer: -change for layer, change in (added or {}).items()}
        return self._values(self.held.base) - self._values(self.held.run(less, -embedded))

    def strongest(self, begin: int, end: int) -> int:
        """The column with the largest entries among some."""
        return begin + int(self.effects[:, begin:end].norm(dim=0).argmax())

    def check(self, source: int, measured: Tensor, near: float = NEAR) -> None:
        scale = measured.abs().max()
        assert scale > 1e-3, "nothing was measured"
        torch.testing.assert_close(self.effects[:, source].to(measured), measured, rtol=near, atol=near * float(scale))

    def check_all(self, near: float = NEAR) -> None:
        """The strongest feature and error of every layer, and two tokens."""
        nodes, first_error = self.linear.features, self.n_features
        starts = torch.searchsorted(nodes.layer, torch.arange(len(self.layers) + 1)).tolist()
        for layer in self.layers:
            if starts[layer] < starts[layer + 1]:
                source = self.strongest(starts[layer], starts[layer + 1])
                self.check(source, self.column(self.feature(source)), near)
            at = first_error + layer * self.length
            source = self.strongest(at, at + self.length)
            self.check(source, self.column(self.error(layer, source - at)), near)
        first_token = first_error + len(self.layers) * self.length
        for position in (0, self.length - 2):
            embedded = self._at(position, self.held.embedded[position])
            self.check(first_token + position, self.column(embedded=embedded), near)

    def _at(self, position: int, row: Tensor) -> Tensor:
        whole = row.new_zeros(self.length, len(row))
        whole[position] = row
        return whole

    def _values(self, ran: Ran) -> Tensor:
        nodes = self.linear.features
        reads = torch.stack(ran.reads)[nodes.layer, nodes.position]
        encoders = torch.stack(self.transcoders.encoder)[nodes.layer, nodes.index]
        return torch.cat([(reads * encoders).sum(-1), ran.logits[self.tokens]])


def autograd(model: EagerModel, transcoders: TranscoderSet, ids: Sequence[int]) -> Linearised:
    return Autograd.trace(model, transcoders, ids, zeroed=ZEROED)


def replay(model: EagerModel, transcoders: TranscoderSet, ids: Sequence[int]) -> Linearised:
    prompt = trace(model, transcoders, ids, zeroed=ZEROED).with_encoders(transcoders)
    return Replay(LinearWeights.of_model(model.module).with_skips(transcoders), prompt)


Engine = Callable[[EagerModel, TranscoderSet, Sequence[int]], Linearised]


@cache
def case(
    name: str, kind: str, reads: ReadSite = "mlp_in", writes: WriteSite = "mlp_out", engine: Engine = autograd
) -> Case:
    transcoders = random_set(kind, n_layers=N_LAYERS, d_model=D_MODEL, reads=reads, writes=writes)
    return Case(eager_model(name), ARCHITECTURES[name], transcoders, lambda model: engine(model, transcoders, IDS))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_holding_everything_changes_nothing(name: str) -> None:
    plain = eager_model(name).module(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
    held = case(name, "relu").held
    seen: list[Tensor] = []
    handle = eager_model(name).module.get_output_embeddings().register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        eager_model(name).module(input_ids=torch.tensor([IDS]), use_cache=False)
    handle.remove()
    assert plain.std() > 0.1
    torch.testing.assert_close(held.base.logits, seen[0][0, -1] - seen[0][0, -1].mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_edge_is_the_change_that_its_source_makes(name: str, kind: str) -> None:
    case(name, kind).check_all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REPLAYED)
def test_it_is_so_in_the_replay_engine(name: str, kind: str) -> None:
    case(name, kind, engine=replay).check_all(near=1e-4)  # it sums in float32


@pytest.mark.parametrize(("name", "site"), SITES)
@pytest.mark.parametrize("kind", ["skip", "clt"])
def test_it_is_so_wherever_the_transcoder_reads(name: str, site: ReadSite, kind: str) -> None:
    case(name, kind, site).check_all()


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "gpt2"])
@pytest.mark.parametrize("kind", ["skip", "clt"])
def test_it_is_so_where_the_transcoder_writes_behind_a_norm(name: str, kind: str) -> None:
    case(name, kind, writes="mlp_contribution").check_all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_edges_add_up_to_the_change_without_all_sources(name: str) -> None:
    graph = case(name, "skip")
    added: dict[int, Tensor] = {}
    for number in range(graph.n_features):
        for layer, change in graph.feature(number).items():
            added[layer] = added.get(layer, 0.0) + change
    for layer in graph.layers:
        for position in range(ZEROED, graph.length):
            added[layer] = added.get(layer, 0.0) + graph.error(layer, position)[layer]
    measured = graph.column(added, graph.held.embedded)
    torch.testing.assert_close(graph.effects.sum(1), measured, rtol=NEAR, atol=NEAR * float(measured.abs().max()))


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_token_of_gemma_counts_with_its_embedding_times_the_root_of_the_width(name: str) -> None:
    graph, model = case(name, "relu"), eager_model(name).module
    table: Any = model.get_input_embeddings().weight
    first = graph.n_features + N_LAYERS * len(IDS)
    for position, token in enumerate(IDS):
        embedded = torch.zeros(len(IDS), D_MODEL, dtype=torch.float64)
        embedded[position] = table.detach()[token] * D_MODEL**0.5
        # transformers rounds the factor to float32.
        graph.check(first + position, graph.column(embedded=embedded), near=1e-6)


@pytest.mark.parametrize(
    ("engine", "dtype", "near"), [(autograd, "float64", NEAR), (autograd, "float32", 1e-3), (replay, "float32", 1e-3)]
)
@pytest.mark.parametrize("prompt", ["1 2 ", "The capital of France is"])
def test_it_is_so_in_the_demo(prompt: str, engine: Engine, dtype: str, near: float) -> None:
    from core.demo.tokenizer import load_tokenizer
    from core.demo.transcoders import NAME, load_transcoders
    from core.graph.transcoders.opening import open_transcoders

    model = EagerModel.load(str(ARTEFACTS / "model"), device="cpu", dtype=dtype)
    model.module.set_attn_implementation("eager")  # which tells its patterns
    trained = load_transcoders(ARTEFACTS)
    n_layers, (n_features, d_model) = len(trained), trained[0].W_enc.shape
    plain = PlainSet(
        shape=TranscoderShape(NAME, n_layers, n_features, d_model, False, "mlp_in", "mlp_out"),
        encoder=[one.W_enc.to(model.dtype) for one in trained],
        encoder_bias=[one.b_enc.to(model.dtype) for one in trained],
        decoder=[one.W_dec.to(model.dtype)[:, None] for one in trained],
        bias=[one.b_dec.to(model.dtype) for one in trained],
        skips=[None] * n_layers,
        thresholds=[one.threshold.to(model.dtype) for one in trained],
    )
    served = open_transcoders(
        str(ARTEFACTS / NAME),
        n_layers=n_layers,
        d_model=d_model,
        device="cpu",
        dtype=model.dtype,
        lazy_encoder=False,
        budget_bytes=2**30,
    )
    ids = load_tokenizer(ARTEFACTS / "model").encode(prompt)
    with torch.no_grad():
        likely = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(3).indices.tolist()
    llama = replace(ARCHITECTURES["llama"], pick=lambda v: v[0].unflatten(-1, (-1, model.shape.head_dim)))
    graph = Case(model, llama, plain, lambda model: engine(model, served, ids), ids, likely)
    assert graph.n_features > 20 * len(ids)
    graph.check_all(near)
