"""Rankings answered in parts merge into what one global stable sort gives."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.questions import Attribution, TopFeaturesAnswer
from core.ranking import merge_rankings

Row = tuple[float, int, int]  # key, number of the source, feature index

N_POSITIONS = 3
few = st.sampled_from([0.0, 0.0, 0.5, 1.0, -1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], list[Row], list[int], int]:
    """Sources in order, all features of all sources, the part that each source is answered in, and `k`."""
    n_sources = draw(st.integers(1, 6))
    sources = draw(st.permutations([f"{number}-set" for number in range(n_sources)]))
    rows = [(draw(few), number, index) for number in range(n_sources) for index in range(draw(st.integers(0, 8)))]
    parts = [draw(st.integers(0, 3)) for _ in range(n_sources)]
    return sources, rows, parts, draw(st.integers(1, 50))


def answer(sources: list[str], rows: list[Row], k: int) -> TopFeaturesAnswer:
    """The best `k` of these rows; every other feature has an attribution that tells whose it is."""
    best = sorted(rows, key=lambda row: -row[0])[:k]
    return TopFeaturesAnswer(
        sources=tuple(sources[number] for _, number, _ in best),
        indexes=np.array([index for _, _, index in best], dtype=np.int64),
        values=np.array([[key, number, index] for key, number, index in best], dtype=np.float32).reshape(
            len(best), N_POSITIONS
        ),
        keys=np.array([key for key, _, _ in best], dtype=np.float32),
        attributions={
            place: Attribution(np.array([number, index], dtype=np.float32), index)
            for place, (_, number, index) in enumerate(best)
            if index % 2
        },
    )


def assert_identical(found: TopFeaturesAnswer, wanted: TopFeaturesAnswer) -> None:
    assert found.sources == wanted.sources
    for name in ("indexes", "values", "keys"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert found.attributions.keys() == wanted.attributions.keys()
    for place, attribution in wanted.attributions.items():
        np.testing.assert_array_equal(found.attributions[place].values, attribution.values)
        assert found.attributions[place].target == attribution.target


@settings(deadline=None, max_examples=200)
@given(case=cases(), data=st.data())
def test_parts_merged_in_any_order_equal_one_global_stable_sort(
    case: tuple[list[str], list[Row], list[int], int], data: st.DataObject
) -> None:
    sources, rows, part_of, k = case
    parts = [answer(sources, [row for row in rows if part_of[row[1]] == part], k) for part in sorted(set(part_of))]
    shuffled = data.draw(st.permutations(parts))
    assert_identical(merge_rankings(shuffled, sources, k), answer(sources, rows, k))


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_merging_merged_parts_equals_merging_all_at_once(case: tuple[list[str], list[Row], list[int], int]) -> None:
    sources, rows, part_of, k = case
    parts = [answer(sources, [row for row in rows if part_of[row[1]] == part], k) for part in range(4)]
    left, right = merge_rankings(parts[:2], sources, k), merge_rankings(parts[2:], sources, k)
    assert_identical(merge_rankings([right, left], sources, k), merge_rankings(parts, sources, k))


def test_a_lone_part_is_the_answer() -> None:
    part = answer(["0-set"], [(1.0, 0, 4), (0.5, 0, 1)], 5)
    assert merge_rankings([part], ["0-set"], 5) is part
