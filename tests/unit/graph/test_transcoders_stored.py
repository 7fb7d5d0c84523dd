"""Sets in circuit-tracer's folders, against the same tensors read plainly and computed in float64."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.demo import ARTEFACTS
from core.demo.transcoders import load_transcoders
from core.errors import InvalidRequest
from core.graph.transcoders import stored
from core.graph.transcoders.opening import open_transcoders
from core.graph.transcoders.stored import StoredTranscoders
from core.graph.transcoders.transcoder import ActiveFeatures, TranscoderSet

from .folders import read, save_clt, save_plt

L, D, F, K = 3, 16, 96, 8
SETS: dict[str, Callable[[Path], Path]] = {
    "plt relu": lambda at: save_plt(at, n_layers=L, d_model=D, n_features=F),
    "plt jumprelu": lambda at: save_plt(at, n_layers=L, d_model=D, n_features=F, activation="jumprelu"),
    "plt topk": lambda at: save_plt(at, n_layers=L, d_model=D, n_features=F, activation="topk", k=K),
    "plt skip": lambda at: save_plt(at, n_layers=L, d_model=D, n_features=F, skip=True),
    "clt relu": lambda at: save_clt(at, n_layers=L, d_model=D, n_features=F),
    "clt jumprelu": lambda at: save_clt(at, n_layers=L, d_model=D, n_features=F, activation="jumprelu"),
}
every = pytest.mark.parametrize("kind", SETS)
both = pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
NEAR: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def opened(folder: Path | str, **options: Any) -> StoredTranscoders:
    defaults: dict[str, Any] = {
        "n_layers": L,
        "d_model": D,
        "device": "cpu",
        "dtype": torch.float32,
        "lazy_encoder": False,
        "budget_bytes": 2**24,
    }
    return open_transcoders(str(folder), **(defaults | options))


def inputs(seed: int = 5, n: int = 11) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def dense(active: ActiveFeatures, n: int, n_features: int = F) -> Tensor:
    found = torch.zeros(n, n_features, dtype=torch.float64)
    found[active.position, active.index] = active.value.double()
    return found


def naive(weights: dict[str, Tensor], x: Tensor, k: int | None) -> Tensor:
    """Activations `[pos, F]` in float64."""
    before = x.double() @ weights["W_enc"].T + weights["b_enc"]
    if k is not None:
        return before * torch.zeros_like(before).scatter(1, before.topk(k, dim=1).indices, 1.0)
    return before * (before > weights.get("threshold", torch.zeros(())))


@every
@both
def test_active_features_equal_the_formula_in_float64(
    kind: str, lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_BLOCK_BYTES", 20 * D * 4)  # five blocks, the last one shorter
    transcoders = opened(SETS[kind](tmp_path), lazy_encoder=lazy)
    for layer in range(L):
        expected = naive(read(tmp_path, layer), inputs(layer), K if "topk" in kind else None)
        active = transcoders.encode(layer, inputs(layer))
        assert 0.02 < (expected != 0).double().mean() < 0.3
        torch.testing.assert_close(dense(active, 11), expected, **NEAR)
        keys = active.position * F + active.index
        assert (keys.diff() > 0).all()
        assert active.value.dtype == torch.float32


@every
@both
def test_values_of_some_features_equal_the_formula_in_float64(kind: str, lazy: bool, tmp_path: Path) -> None:
    transcoders = opened(SETS[kind](tmp_path), lazy_encoder=lazy)
    for layer in range(L):
        everything = naive(read(tmp_path, layer), inputs(layer), K if "topk" in kind else None)
        most = int((everything != 0).sum(0).argmax())
        indices = torch.tensor([95, 0, most, 17, most, 3])
        found = transcoders.activations(layer, inputs(layer), indices)
        expected = everything[:, indices]
        assert (expected != 0).any()
        assert torch.equal(found != 0, expected != 0)
        torch.testing.assert_close(found.double(), expected, **NEAR)
        assert transcoders.activations(layer, inputs(layer), indices[:0]).shape == (11, 0)


@pytest.mark.parametrize("kind", [kind for kind in SETS if "topk" not in kind])
def test_values_of_some_features_are_had_without_reading_the_others(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcoders = opened(SETS[kind](tmp_path), lazy_encoder=True)
    rows: list[Tensor] = []
    linear = torch.nn.functional.linear

    def multiplied(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", multiplied)
    transcoders.activations(1, inputs(), torch.tensor([8, 2]))
    (read_rows,) = rows
    assert torch.equal(read_rows.double(), read(tmp_path, 1)["W_enc"][[8, 2]])


def test_a_local_topk_set_has_k_active_features_and_not_those_of_relu(tmp_path: Path) -> None:
    active = opened(SETS["plt topk"](tmp_path)).encode(1, 3 * inputs() + 1)
    assert active.position.bincount().tolist() == [K] * 11


@every
@both
def test_rows_are_the_file_s_in_whatever_order_they_are_asked_for(kind: str, lazy: bool, tmp_path: Path) -> None:
    transcoders = opened(SETS[kind](tmp_path), lazy_encoder=lazy)
    indices = torch.tensor([95, 0, 17, 17, 3, 95])
    for layer in range(L):
        truth = read(tmp_path, layer)
        decoder = truth["W_dec"] if transcoders.shape.cross_layer else truth["W_dec"].unsqueeze(1)
        assert torch.equal(transcoders.encoder_rows(layer, indices).double(), truth["W_enc"][indices])
        assert torch.equal(transcoders.decoder_rows(layer, indices).double(), decoder[indices])
        assert torch.equal(transcoders.decoder_bias(layer).double(), truth["b_dec"])
        assert decoder.shape[1] == (L - layer if transcoders.shape.cross_layer else 1)


@every
@both
def test_no_rows_are_an_empty_answer(kind: str, lazy: bool, tmp_path: Path) -> None:
    transcoders, none = opened(SETS[kind](tmp_path), lazy_encoder=lazy), torch.zeros(0, dtype=torch.int64)
    assert transcoders.encoder_rows(1, none).shape == (0, D)
    assert transcoders.decoder_rows(1, none).shape == (0, L - 1 if "clt" in kind else 1, D)


@every
def test_the_output_of_all_layers_equals_the_formula_in_float64(kind: str, tmp_path: Path) -> None:
    transcoders: TranscoderSet = opened(SETS[kind](tmp_path), lazy_encoder=True)
    found, expected = torch.zeros(L, 11, D).double(), torch.zeros(L, 11, D).double()
    for layer in range(L):
        x, truth = inputs(layer), read(tmp_path, layer)
        values = naive(truth, x, K if "topk" in kind else None)
        slots = truth["W_dec"] if "clt" in kind else truth["W_dec"].unsqueeze(1)
        for slot in range(slots.shape[1]):
            expected[layer + slot] += values @ slots[:, slot]
        expected[layer] += truth["b_dec"]
        if "W_skip" in truth:
            expected[layer] += x.double() @ truth["W_skip"].T
        active = transcoders.encode(layer, x)
        written = transcoders.decoder_rows(layer, active.index).double() * active.value.double()[:, None, None]
        for slot in range(written.shape[1]):
            found[layer + slot].index_add_(0, active.position, written[:, slot])
        found[layer] += transcoders.decoder_bias(layer).double()
        skip = transcoders.skip(layer)
        assert (skip is not None) == ("W_skip" in truth)
        if skip is not None:
            found[layer] += x.double() @ skip.double().T
    torch.testing.assert_close(found, expected, **NEAR)


@every
@both
def test_everything_comes_in_the_precision_asked_for(kind: str, lazy: bool, tmp_path: Path) -> None:
    transcoders = opened(SETS[kind](tmp_path), lazy_encoder=lazy, dtype=torch.bfloat16)
    indices, truth = torch.tensor([4, 2]), read(tmp_path, 0)
    assert transcoders.encode(0, inputs()).value.dtype == torch.bfloat16
    assert transcoders.activations(0, inputs(), indices).dtype == torch.bfloat16
    assert torch.equal(transcoders.encoder_rows(0, indices), truth["W_enc"][indices].bfloat16())
    assert torch.equal(transcoders.decoder_bias(0), truth["b_dec"].bfloat16())
    assert transcoders.decoder_rows(0, indices).dtype == torch.bfloat16
    skip = transcoders.skip(0)
    assert skip is None or skip.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@both
def test_weights_saved_in_half_precision_are_read_as_they_are(lazy: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    save_plt(tmp_path, n_layers=L, d_model=D, n_features=F, dtype=dtype)
    transcoders = opened(tmp_path, lazy_encoder=lazy)
    expected = naive(read(tmp_path, 2), inputs(), None)
    torch.testing.assert_close(dense(transcoders.encode(2, inputs()), 11), expected, **NEAR)


@every
def test_what_files_hold_stays_under_the_budget_after_every_call(kind: str, tmp_path: Path) -> None:
    folder = SETS[kind](tmp_path)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    tight, none = opened(folder, lazy_encoder=True, budget_bytes=size // 2), opened(folder, budget_bytes=0)
    most = 0
    for turn in range(3 * L):
        layer = turn % L
        for transcoders, limit in ((tight, size // 2), (none, 0)):
            active = transcoders.encode(layer, inputs(turn))
            assert transcoders.held_bytes <= limit
            transcoders.decoder_rows(layer, active.index)
            assert transcoders.held_bytes <= limit
        most = max(most, tight.held_bytes)
        assert torch.equal(none.encode(layer, inputs()).index, tight.encode(layer, inputs()).index)
    assert most > 0


@both
def test_threads_that_share_a_set_get_what_each_alone_would_get(lazy: bool, tmp_path: Path) -> None:
    transcoders = opened(SETS["clt jumprelu"](tmp_path), lazy_encoder=lazy, budget_bytes=4096)

    def work(seed: int) -> Tensor:
        active = transcoders.encode(seed % L, inputs(seed))
        return transcoders.decoder_rows(seed % L, active.index).sum(dim=(0, 1)) + active.value.sum()

    alone = [work(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(24)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@both
@pytest.mark.parametrize("index", [-1, F, 10**9])
def test_a_feature_that_does_not_exist_is_refused(index: int, lazy: bool, tmp_path: Path) -> None:
    transcoders = opened(SETS["plt relu"](tmp_path), lazy_encoder=lazy)
    indices = torch.tensor([1, index])
    for ask in (
        lambda: transcoders.encoder_rows(0, indices),
        lambda: transcoders.decoder_rows(0, indices),
        lambda: transcoders.activations(0, inputs(), indices),
    ):
        with pytest.raises(InvalidRequest, match=f"Feature index {index} is out of range"):
            ask()


@both
def test_the_shipped_set_opens_by_its_name_and_computes_what_it_was_trained_as(lazy: bool) -> None:
    transcoders = opened("plt-demo", n_layers=4, d_model=128, lazy_encoder=lazy)
    shape = transcoders.shape
    assert (shape.name, shape.n_layers, shape.n_features, shape.cross_layer) == ("plt-demo", 4, 1024, False)
    assert (shape.reads, shape.writes) == ("mlp_in", "mlp_out")
    x = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    for layer, trained in enumerate(load_transcoders(ARTEFACTS)):
        expected = trained.encode(x).double()
        assert (expected > 0).sum() > 6
        torch.testing.assert_close(dense(transcoders.encode(layer, x), 6, 1024), expected, rtol=1e-5, atol=1e-5)
