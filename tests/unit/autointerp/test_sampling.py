"""What an explainer and its judges are shown: disjoint, spread over the range, and the same for the same seed."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.autointerp.examples import Example, FeatureName
from core.autointerp.sampling import SamplerSettings, distinct, sample, with_quantiles
from core.autointerp.seeds import derive_seed
from core.errors import InvalidRequest

NAME = FeatureName("rayscope-demo", "1-res-demo", 2)


def active(*maxima: float) -> list[Example]:
    return [Example(("text", f" {number}"), (0.0, maximum)) for number, maximum in enumerate(maxima)]


def silent(n: int) -> list[Example]:
    return [Example(("quiet", f" {number}"), (0.0, 0.0)) for number in range(n)]


@given(
    maxima=st.lists(st.floats(0.01, 10), min_size=2, max_size=120),
    copies=st.integers(1, 3),
    n_train=st.integers(1, 50),
    n_test=st.integers(0, 50),
    n_quantiles=st.integers(1, 12),
    train_type=st.sampled_from(["top", "random", "quantiles", "mix"]),
)
@settings(max_examples=150, deadline=None)
def test_train_and_test_never_share_a_text(maxima, copies, n_train, n_test, n_quantiles, train_type) -> None:
    wanted = SamplerSettings(n_train=n_train, n_test=n_test, n_quantiles=n_quantiles, train_type=train_type)
    record = sample(NAME, active(*maxima) * copies, [], wanted)
    train, test = [e.text for e in record.train], [e.text for e in record.test]
    assert len({*train, *test}) == len(train) + len(test)
    assert 1 <= len(train) <= n_train
    assert len(test) <= n_test
    assert [e.maximum for e in record.train] == sorted((e.maximum for e in record.train), reverse=True)
    if len(maxima) >= n_train + n_test:
        assert (len(train), len(test)) == (n_train, n_test)


@given(maxima=st.lists(st.floats(0.01, 10), max_size=60), n_quantiles=st.integers(1, 12))
def test_quantiles_hold_equal_counts_weakest_first(maxima: list[float], n_quantiles: int) -> None:
    ranked = with_quantiles(distinct(active(*maxima)), n_quantiles)
    sizes = [sum(e.quantile == number for e in ranked) for number in range(1, n_quantiles + 1)]
    assert sum(sizes) == len(maxima)
    assert max(sizes) - min(sizes) <= 1
    keys = [(e.maximum, e.quantile) for e in ranked]
    assert keys == sorted(keys)


def test_the_test_set_covers_every_quantile_and_train_takes_the_strongest_of_the_rest() -> None:
    record = sample(NAME, active(*range(1, 201)), [], SamplerSettings(n_train=40, n_test=50, n_quantiles=10))
    assert [sum(e.quantile == q for e in record.test) for q in range(1, 11)] == [5] * 10
    held_out = {e.maximum for e in record.test}
    assert [e.maximum for e in record.train] == [m for m in range(200, 0, -1) if m not in held_out][:40]


def test_quantiles_that_the_examples_know_are_kept() -> None:
    # A cache that keeps the strongest 60 and a few of the rest: most of what it has is of one quantile.
    pool = [replace(one, quantile=1 if one.maximum <= 6 else 2) for one in active(*range(1, 67))]
    record = sample(NAME, pool, [], SamplerSettings(n_train=20, n_test=10, n_quantiles=10))
    assert [sum(one.quantile == q for one in record.test) for q in (1, 2)] == [5, 5]
    assert all(one.quantile == (1 if one.maximum <= 6 else 2) for one in (*record.train, *record.test))


def test_a_pool_too_small_for_both_is_shared() -> None:
    record = sample(NAME, active(*range(1, 19)), [], SamplerSettings(n_train=40, n_test=50))
    assert (len(record.train), len(record.test)) == (8, 10)
    tiny = sample(NAME, active(1, 2), [], SamplerSettings(n_train=1, n_test=50))
    assert (len(tiny.train), len(tiny.test)) == (1, 1)


def test_train_types_choose_what_they_say() -> None:
    pool = active(*range(1, 101))

    def maxima(train_type: str) -> list[float]:
        wanted = SamplerSettings(n_train=20, n_test=0, n_quantiles=10, train_type=train_type, ratio_top=0.5)
        return [e.maximum for e in sample(NAME, pool, [], wanted).train]

    assert maxima("top") == list(range(100, 80, -1))
    deciles = [sum(10 * q < m <= 10 * q + 10 for m in maxima("quantiles")) for q in range(10)]
    assert deciles == [2] * 10
    assert maxima("mix")[:10] == list(range(100, 90, -1))
    others = [sum(10 * q < m <= 10 * q + 10 for m in maxima("mix")[10:]) for q in range(9)]
    assert (sum(others), min(others), max(others)) == (10, 1, 2)
    assert len(set(maxima("random"))) == 20
    assert maxima("random") != maxima("top")


def test_the_draw_depends_on_the_feature_and_the_seed_and_on_nothing_else() -> None:
    pool, quiet = active(*range(1, 201)), silent(300)
    first = sample(NAME, pool, quiet, SamplerSettings())
    random.seed(1)
    state = random.getstate()
    shuffled = random.Random(5).sample(pool, len(pool)), random.Random(6).sample(quiet, len(quiet))
    assert sample(NAME, *shuffled, SamplerSettings()) == first
    assert random.getstate() == state
    assert sample(NAME, pool, quiet, SamplerSettings(seed=23)).test != first.test
    other = sample(FeatureName(NAME.model, NAME.source, 3), pool, quiet, SamplerSettings())
    assert other.test != first.test
    assert other.silent != first.silent


def test_a_seed_is_the_same_in_every_process_and_tells_its_parts_apart() -> None:
    assert derive_seed("sampling", 1) == 0xC14C50884BCED246
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert derive_seed("a") != derive_seed("a", "")


def test_silent_examples_are_distinct_and_none_has_the_text_of_an_active_one() -> None:
    twin = Example(("text", " 0"), (0.0, 0.0))
    record = sample(NAME, active(*range(1, 30)), [twin, *silent(20), *silent(20)], SamplerSettings(n_silent=50))
    texts = [e.text for e in record.silent]
    assert sorted(texts) == sorted(e.text for e in silent(20))
    assert len(sample(NAME, active(1, 2), silent(20), SamplerSettings(n_silent=7)).silent) == 7


def test_of_equal_texts_the_strongest_counts() -> None:
    weak, strong = Example(("a", "b"), (1.0, 0.0)), Example(("ab",), (3.0,))
    assert distinct([weak, strong]) == distinct([strong, weak]) == [strong]


def test_too_few_texts_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidRequest, match="fires in 3 different texts, 5 are needed"):
        sample(NAME, active(1, 2, 3) * 4, [], SamplerSettings(min_examples=5))


def test_an_example_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="said to be active"):
        sample(NAME, [*active(1, 2), *silent(1)], [], SamplerSettings())
    with pytest.raises(InvalidRequest, match="said to be silent"):
        sample(NAME, active(1, 2), active(1), SamplerSettings())


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_test": -1}, {"n_quantiles": 0}, {"ratio_top": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least|lies in"):
        SamplerSettings(**wrong)
