"""Promises of `core.graph.admission` and `core.graph.cost`."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Overloaded, TooLarge
from core.graph.admission import RETRY_FLOOR_S, Admission, SchedulerLimits
from core.graph.cost import CostModel, GraphCost, GraphSize
from core.graph.transcoders.transcoder import TranscoderShape

COST = GraphCost(held_bytes=100, row_bytes=10, row_work=1, rows=5)
SIZE = GraphSize(n_layers=3, n_tokens=4, d_model=16, n_held=50, n_features=20, n_logits=2)


def admission(**limits: int) -> Admission[str]:
    return Admission(SchedulerLimits(**{"block_rows": 2, "step_rows": 8, **limits}))


def enter(where: Admission[str], name: str, cost: GraphCost = COST) -> list[str]:
    where.enter(name, cost, 7.0)
    return where.promote()


@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_promised_memory_and_a_step_never_exceed_the_budget(
    sizes: list[tuple[int, int]], max_running: int, block_rows: int, step_rows: int
) -> None:
    where = admission(budget_bytes=100, max_running=max_running, block_rows=block_rows, step_rows=step_rows)
    order: list[str] = []
    for number, (held, row) in enumerate(sizes):
        order += enter(where, str(number), GraphCost(held, row, 1, 1))
    while where.running:
        largest = max(graph.cost.row_bytes for graph in where.running.values())
        largest_block = max(graph.block_bytes for graph in where.running.values())
        assert where.held_bytes + max(where.step_rows() * largest, largest_block) <= 100
        assert 1 <= where.step_rows() <= step_rows
        assert all(1 <= graph.block_rows <= block_rows for graph in where.running.values())
        assert len(where.running) <= max_running
        where.leave(next(iter(where.running)))
        order += where.promote()
    assert order == [str(number) for number in range(len(sizes))]


def test_the_rows_of_a_block_follow_from_the_graph_and_the_limits_alone() -> None:
    for neighbours in range(3):
        where = admission(budget_bytes=1_000, block_rows=64)
        for number in range(neighbours):
            enter(where, str(number))
        assert where.enter("x", COST, 0.0).block_rows == 64
        assert where.enter("y", replace(COST, held_bytes=950), 0.0).block_rows == 5
        assert where.enter("z", COST, 0.0, 7).block_rows == 7
        assert where.enter("zz", COST, 0.0, 0).block_rows == 64
        assert where.enter("zzz", COST, 0.0, 700).block_rows == 64


def test_a_graph_that_would_not_fit_alone_is_too_large() -> None:
    where = admission(budget_bytes=109)
    with pytest.raises(TooLarge, match="set aside for graphs"):
        enter(where, "a")
    assert enter(admission(budget_bytes=110), "a") == ["a"]


def test_a_graph_waits_until_there_is_room_for_it_and_a_block() -> None:
    where = admission(budget_bytes=219)
    assert enter(where, "a") == ["a"]
    assert enter(where, "b") == []
    where.leave("a")
    assert where.promote() == ["b"]
    where = admission(budget_bytes=220)
    assert enter(where, "a") + enter(where, "b") == ["a", "b"]
    assert where.step_rows() == 2


def test_a_small_graph_does_not_overtake_a_large_one() -> None:
    where = admission(budget_bytes=300)
    enter(where, "a")
    assert enter(where, "large", replace(COST, held_bytes=250)) == []
    assert enter(where, "small") == []
    where.leave("large")
    assert where.promote() == ["small"]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    where = admission(max_running=1, max_queue=2)
    for name in "abc":
        assert not where.busy
        enter(where, name)
    assert where.busy
    with pytest.raises(Overloaded) as refused:
        enter(where, "d")
    assert refused.value.retry_after_s == 7.0
    with pytest.raises(Overloaded) as refused:
        where.enter("d", COST, 0.0)
    assert refused.value.retry_after_s == RETRY_FLOOR_S
    assert list(where.waiting) == ["b", "c"]


def test_without_a_queue_only_an_idle_device_takes_a_graph() -> None:
    where = admission(max_queue=0)
    assert not where.busy
    assert enter(where, "a") == ["a"]
    assert where.busy
    with pytest.raises(Overloaded):
        enter(where, "b")
    where.leave("a")
    assert enter(where, "b") == ["b"]


@pytest.mark.parametrize("wrong", [{"step_rows": 0}, {"block_rows": 0}, {"max_running": 0}, {"max_queue": -1}])
def test_limits_that_admit_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        SchedulerLimits(**wrong)


def test_the_cost_is_the_one_written_down() -> None:
    cost = CostModel(feature_bytes=8.0, step_bytes=24.0).predict(SIZE)
    assert cost.rows == 22
    assert cost.row_work == 12
    assert cost.held_bytes == 8 * 50 * 16 + 16 * 16 * 4 + 22 * (20 + 16) * 4 + 2 * (50 + 16) * 4
    assert cost.row_bytes == 24 * 4 * 16 + 8 * (50 + 16)


def test_decoder_rows_that_are_gathered_are_paid_for_once_and_their_scores_by_every_row() -> None:
    plain = CostModel(8.0, 24.0, item_bytes=2)
    gathering = replace(plain, widest=0.25)
    less, more = plain.predict(SIZE), gathering.predict(SIZE)
    rows = 3 * 50 / 4 + 8 * 4
    assert more.held_bytes - less.held_bytes == int(rows * 2 * 16)
    assert more.row_bytes - less.row_bytes == 8 * rows


def test_several_rankings_pay_for_every_column() -> None:
    model = CostModel(8.0, 24.0)
    more = model.predict(replace(SIZE, reranked=True)).held_bytes - model.predict(SIZE).held_bytes
    assert more == 22 * 30 * 4


def test_cross_layer_decoders_and_kept_layers_cost_more() -> None:
    shape = TranscoderShape("s", 5, 100, 16, cross_layer=False, reads="mlp_in", writes="mlp_out")
    assert CostModel.of(shape, 2) == CostModel(4.0, 28.0, item_bytes=2, widest=0.2)
    assert CostModel.of(replace(shape, cross_layer=True), 2) == CostModel(8.0, 28.0, item_bytes=2, widest=1.0)
    assert CostModel.of(shape, 2, keeps_layers=True) == CostModel(4.0, 140.0, item_bytes=2, widest=None)
