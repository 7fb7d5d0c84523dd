"""Reservoirs against a plain dictionary of all windows, over any parts in any order."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.autointerp.caching.priorities import choose, priorities
from core.autointerp.caching.records import Records
from core.autointerp.caching.reservoirs import (
    LOWEST_OCTAVE,
    N_OCTAVES,
    ReservoirShape,
    empty_reservoir,
    merge_reservoirs,
    reservoir_from,
    reservoir_of,
    silent_windows,
    tensors_of,
)
from core.autointerp.caching.samples import best_of, contenders
from core.autointerp.seeds import derive_seed

N_LATENTS, N_WINDOWS, CONTEXT = 5, 24, 8
SHAPE = ReservoirShape(window_tokens=4, top=3, per_octave=2, silent_pool=20, seed=9)
POOL = SHAPE.pool(N_WINDOWS * 2)


def corpus(seed, density=0.2):
    """Dense activations `[windows, context, latents]`, many of them equal, one latent always silent."""
    rng = np.random.default_rng(seed)
    dense = np.exp2(rng.integers(-8, 12, (N_WINDOWS, CONTEXT, N_LATENTS))).astype(np.float32)
    dense *= rng.random(dense.shape) < density
    dense[:, :, 4] = 0
    return dense


def records_of(dense):
    windows, positions, latents = dense.nonzero()
    return Records.sorted_from(
        dense.shape[2],
        latents.astype(np.int32),
        windows.astype(np.uint16),
        positions.astype(np.uint16),
        dense[windows, positions, latents],
    )


def of_part(dense, first, last, shape=SHAPE):
    return reservoir_of(
        records_of(dense[first:last]),
        "0-x",
        first_window=first,
        context_tokens=CONTEXT,
        shape=shape,
        pool=shape.pool(N_WINDOWS * 2),
    )


def assert_equal(one, other):
    for name, array in tensors_of(one).items():
        np.testing.assert_array_equal(array, tensors_of(other)[name], err_msg=name)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(1, N_WINDOWS - 1), unique=True, max_size=6),
    shuffle=st.randoms(use_true_random=False),
)
def test_parts_merged_in_any_order_and_grouping_give_what_one_pass_gives(seed, cuts, shuffle: random.Random):
    dense = corpus(seed)
    edges = [0, *sorted(cuts), N_WINDOWS]
    parts = [of_part(dense, first, last) for first, last in pairwise(edges)]
    shuffle.shuffle(parts)
    while len(parts) > 1:
        taken = [parts.pop(shuffle.randrange(len(parts))) for _ in range(shuffle.randint(2, len(parts)))]
        parts.append(merge_reservoirs(taken, SHAPE))
    assert_equal(parts[0], of_part(dense, 0, N_WINDOWS))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_what_is_kept_is_what_a_look_at_every_window_would_keep(seed):
    dense = corpus(seed)
    reservoir = of_part(dense, 0, N_WINDOWS)
    cut = dense.reshape(-1, SHAPE.window_tokens, N_LATENTS)
    for latent in range(N_LATENTS):
        firing = [w for w in range(len(cut)) if cut[w, :, latent].max() > 0]
        strongest = sorted(firing, key=lambda w: (-cut[w, :, latent].max(), w))[: SHAPE.top]
        top = reservoir.top.of(latent)
        assert reservoir.top.windows[top].tolist() == strongest
        np.testing.assert_array_equal(reservoir.top.values[top], cut[strongest, :, latent])
        assert reservoir.fired_tokens[latent] == (dense[:, :, latent] > 0).sum()
        assert reservoir.fired_windows[latent] == len(firing)
        for octave in range(N_OCTAVES):
            here = []
            for w in firing:
                exact = int(np.floor(np.log2(cut[w, :, latent].max()))) - LOWEST_OCTAVE
                if min(max(exact, 0), N_OCTAVES - 1) == octave:
                    here.append(w)
            assert reservoir.octaves[latent, octave] == len(here)
            kept = reservoir.spread.of(latent * N_OCTAVES + octave)
            windows = reservoir.spread.windows[kept].tolist()
            assert len(windows) == min(SHAPE.per_octave, len(here))
            assert len(set(windows)) == len(windows)
            assert set(windows) <= set(here)
            np.testing.assert_array_equal(reservoir.spread.values[kept], cut[windows, :, latent])
        quiet = silent_windows(reservoir, latent, "0-x", 9).tolist()
        assert sorted(quiet) == [w for w in POOL.tolist() if w not in firing]


def test_a_range_of_latents_keeps_what_it_keeps_among_all():
    dense = corpus(1)
    whole, some = records_of(dense), records_of(dense[:, :, 2:4])
    some = Records(2, some.offsets, some.windows, some.positions, some.activations)
    settings_ = {"first_window": 0, "context_tokens": CONTEXT, "shape": SHAPE, "pool": POOL}
    all_, part = reservoir_of(whole, "0-x", **settings_), reservoir_of(some, "0-x", **settings_)
    for latent in (2, 3):
        for kind, group, at in (
            ("top", latent, latent - 2),
            *(("spread", latent * N_OCTAVES + i, (latent - 2) * N_OCTAVES + i) for i in range(N_OCTAVES)),
        ):
            one, other = getattr(all_, kind), getattr(part, kind)
            assert one.windows[one.of(group)].tolist() == other.windows[other.of(at)].tolist()


def test_memory_is_bounded_by_the_shape_however_long_the_corpus():
    shape = ReservoirShape(window_tokens=4, top=3, per_octave=2, silent_pool=8)
    pool = shape.pool(10**6)
    entry = 8 + 8 + 8 + 4 * shape.window_tokens
    bound = N_LATENTS * ((3 + 2 * N_OCTAVES) * entry + 8 + 8 * N_OCTAVES + 8) + 8 * 8
    reservoir = empty_reservoir(0, N_LATENTS, shape, pool)
    for part in range(60):
        seen = reservoir_of(
            records_of(corpus(part, density=0.9)),
            "0-x",
            first_window=part * N_WINDOWS,
            context_tokens=CONTEXT,
            shape=shape,
            pool=pool,
        )
        reservoir = merge_reservoirs([reservoir, seen], shape)
        assert reservoir.size_bytes <= bound
        assert sum(array.nbytes for array in tensors_of(reservoir).values()) <= bound + 8
    assert reservoir.size_bytes > bound / 2  # it was full


def test_a_reservoir_without_records_is_empty_and_merges():
    nothing = of_part(np.zeros((4, CONTEXT, N_LATENTS), np.float32), 0, 4)
    assert len(nothing.top) == len(nothing.spread) == 0
    something = of_part(corpus(3), 4, N_WINDOWS)
    assert_equal(merge_reservoirs([nothing, something], SHAPE), something)


def test_storing_loses_nothing():
    reservoir = of_part(corpus(2), 0, N_WINDOWS)
    assert_equal(reservoir_from(tensors_of(reservoir)), reservoir)


def test_random_windows_are_drawn_evenly_and_differ_by_seed_and_source():
    latents, windows = np.arange(2000)[:, None], np.arange(50)
    drawn = priorities(derive_seed(1, "a"), latents, windows).argmax(1)
    counts = np.bincount(drawn, minlength=50)
    assert counts.min() > 15 and counts.max() < 75  # 40 expected, standard deviation 6.3
    assert (drawn != priorities(derive_seed(2, "a"), latents, windows).argmax(1)).mean() > 0.9
    assert (drawn != priorities(derive_seed(1, "b"), latents, windows).argmax(1)).mean() > 0.9


@pytest.mark.parametrize(("n", "count", "expected"), [(5, 9, 5), (1000, 10, 10), (0, 3, 0)])
def test_a_choice_has_as_many_as_there_are(n, count, expected):
    chosen = choose(3, n, count)
    assert len(chosen) == len(set(chosen.tolist())) == expected
    assert sorted(chosen.tolist()) == chosen.tolist()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 40), kind=st.sampled_from(["activations", "chances", "equal"]))
def test_the_best_are_found_without_sorting_all_and_are_those_of_a_sort(seed, k, kind):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, rng.integers(1, 30), 2000)
    order_by = {
        "activations": lambda: np.exp(rng.normal(0, 4, 2000)).astype(np.float32).astype(np.float64),
        "chances": lambda: rng.random(2000),
        "equal": lambda: np.full(2000, 0.25),
    }[kind]()
    windows = rng.permutation(2000)
    expected = []
    for group in range(30):
        here = np.flatnonzero(groups == group)
        expected += sorted(here.tolist(), key=lambda at: (-order_by[at], windows[at]))[:k]
    assert best_of(groups, order_by, windows, k).tolist() == expected
    left = contenders(groups, order_by, k)
    assert set(expected) <= set(left.tolist())
    if kind == "chances" and k <= 5 and len(set(groups)) == 1:
        assert len(left) < 1000  # few are sorted
