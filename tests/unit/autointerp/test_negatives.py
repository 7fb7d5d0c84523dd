"""Hard negatives are the nearest windows, and never one where the feature fires."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.autointerp.negatives import (
    HardNegative,
    NeighbourFeature,
    WindowIndex,
    nearest_features,
    neighbour_negatives,
)
from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae
from tests.tiny_models import D_MODEL, random_sae

HOOK = "blocks.0.hook_resid_post"


def random_vectors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 60),
    queries=st.integers(1, 6),
    wanted=st.integers(1, 70),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_nearest_silent_windows_are_found_and_no_firing_one(seed, n, queries, wanted, data) -> None:
    windows, active = random_vectors(seed, n, 5) * 7, random_vectors(seed + 1, queries, 5)
    firing = data.draw(st.sets(st.integers(0, n - 1)))
    found = WindowIndex.build(windows).hardest(active, firing, wanted)

    w, a = windows.astype(np.float64), active.astype(np.float64)
    cosines = (w @ a.T) / np.outer(np.linalg.norm(w, axis=1), np.linalg.norm(a, axis=1))
    nearest = sorted((-cosines[at].max(), at) for at in range(n) if at not in firing)[:wanted]
    assert [one.window for one in found] == [at for _, at in nearest]
    assert [one.distance for one in found] == pytest.approx([-cosine for cosine, _ in nearest], abs=1e-5)


def test_one_index_serves_features_that_fire_in_different_windows() -> None:
    index = WindowIndex.build(np.eye(3, dtype=np.float32))
    query = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    assert [one.window for one in index.hardest(query, {0}, 9)] == [1, 2]
    assert [one.window for one in index.hardest(query, [2, 1, 2], 9)] == [0]
    assert index.hardest(query, {0, 1, 2}, 9) == []
    assert index.hardest(query, set(), 0) == []
    assert len(index) == 3


def test_an_index_survives_its_file(tmp_path: Path) -> None:
    windows, query = random_vectors(0, 20, 4), random_vectors(1, 2, 4)
    index = WindowIndex.build(windows)
    index.save(tmp_path / "windows.faiss")
    again = WindowIndex.open(tmp_path / "windows.faiss")
    assert again.hardest(query, {3}, 5) == index.hardest(query, {3}, 5)


@pytest.mark.parametrize("spoil", [0.0, np.nan, np.inf])
def test_an_embedding_that_has_no_direction_is_refused(spoil: float) -> None:
    windows = random_vectors(0, 3, 4)
    index = WindowIndex.build(windows)
    windows[1] = spoil
    with pytest.raises(InvalidRequest, match="zero or not finite"):
        WindowIndex.build(windows)
    with pytest.raises(InvalidRequest, match="zero or not finite"):
        index.hardest(windows, set(), 1)


def test_embeddings_of_another_model_and_an_empty_dataset_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="width 5 were asked of an index of 4"):
        WindowIndex.build(random_vectors(0, 3, 4)).hardest(random_vectors(0, 1, 5), set(), 1)
    with pytest.raises(InvalidRequest, match="at least one window"):
        WindowIndex.build(np.zeros((0, 4), dtype=np.float32))


def test_a_near_features_strongest_windows_are_taken_where_this_one_is_silent() -> None:
    neighbours = [NeighbourFeature(7, 0.9), NeighbourFeature(3, 0.5), NeighbourFeature(4, 0.4)]
    windows = {7: [10, 11, 12, 13], 4: [12, 20, 21, 11]}
    found = neighbour_negatives(neighbours, windows, {11, 21}, wanted=9, per_neighbour=2)
    assert found == [HardNegative(10, 0.9), HardNegative(12, 0.9), HardNegative(20, 0.4)]
    assert neighbour_negatives(neighbours, windows, {11, 21}, wanted=1) == found[:1]
    assert neighbour_negatives(neighbours, windows, {10, 11, 12, 13, 20, 21}, wanted=9) == []


def test_near_features_are_those_with_near_decoder_rows() -> None:
    sae = LoadedSae("0-tiny", HOOK, random_sae("standard", d_in=D_MODEL, d_sae=40, hook=HOOK, seed=0))
    decoder = sae.sae.W_dec.double()
    units = decoder / decoder.norm(dim=1, keepdim=True)
    cosines = (units @ units[5]).tolist()
    nearest = sorted((at for at in range(40) if at != 5), key=lambda at: -cosines[at])[:6]
    found = nearest_features(sae, 5, 6)
    assert [one.index for one in found] == nearest
    assert [one.cosine for one in found] == pytest.approx([cosines[at] for at in nearest], abs=1e-5)
    assert len(nearest_features(sae, 5, 999)) == 39
    with pytest.raises(InvalidRequest):
        nearest_features(sae, 40, 3)
