"""Promises of `core.graph.attribution`, `reranking`, `selection` and `ranking`: which rows, in which order."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import RayscopeError
from core.graph.attribution import Attribution, Choice, Scoring, Selecting, attribute
from core.graph.effects import Effects, FeatureNodes
from core.graph.linearised import TargetRows
from core.graph.plan import Plan, Progress, run
from core.graph.ranking import direct_influence, most_influential, partial_influence
from core.graph.reranking import Reranking
from core.graph.selection import assemble, select, shards
from tests.unit.graph.dense import World, chosen_features, influence, of_table, rectangle, world

SEEDS = st.integers(0, 10_000)


def plan(given: World, choice: Choice) -> Attribution:
    return Attribution(given.linearised, given.logits, given.targets, choice)


def numbers(given: World, effects: Effects) -> list[int]:
    """The features of a graph, by their numbers among the active ones."""
    return (effects.features.index // 7).tolist()


def same(one: Effects, other: Effects) -> bool:
    parts = ("layer", "position", "index", "activation")
    return (
        torch.equal(one.weights, other.weights)
        and all(torch.equal(getattr(one.features, part), getattr(other.features, part)) for part in parts)
        and one.logits is other.logits
        and (one.token_ids, one.n_layers, one.n_active) == (other.token_ids, other.n_layers, other.n_active)
    )


@given(SEEDS, st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None)
def test_the_features_are_those_of_the_reference_and_every_effect_stands_in_its_place(
    seed: int, count: int, ranked_every: int
) -> None:
    there = world(seed)
    expected, gap = chosen_features(there, min(count, there.n), ranked_every)
    assume(gap > 1e-5)
    effects = run(plan(there, Choice(count, ranked_every)), 5)
    assert numbers(there, effects) == expected
    assert np.array_equal(effects.weights.numpy(), rectangle(there, expected))
    assert effects.weights.dtype == torch.float32
    assert effects.n_active == there.n
    assert effects.n_positions == 2
    assert torch.equal(effects.features.layer, there.linearised.features.layer[expected])
    assert torch.equal(effects.features.activation, there.linearised.features.activation[expected])


@given(SEEDS, st.integers(0, 12))
@settings(deadline=None)
def test_partial_influence_is_the_sum_of_the_power_iteration(seed: int, known: int) -> None:
    there = world(seed)
    rows = torch.randperm(there.n, generator=torch.Generator().manual_seed(seed))[:known]
    table = there.linearised.table
    effects = torch.cat([table[there.n :], table[rows]])
    found = partial_influence(effects, rows, there.linearised.features.layer, there.logits.probabilities)
    np.testing.assert_allclose(found.numpy(), influence(there, rows.tolist()), rtol=1e-5, atol=1e-7)
    if known == 0:
        assert torch.equal(found, direct_influence(effects, there.logits.probabilities, there.n))


@given(SEEDS, st.integers(1, 14), st.one_of(st.none(), st.integers(1, 14)), st.integers(1, 30), st.data())
@settings(deadline=None)
def test_any_size_of_blocks_gives_the_same_graph(
    seed: int, count: int, ranked_every: int | None, block_rows: int, data: st.DataObject
) -> None:
    there = world(seed)
    choice = Choice(count, ranked_every)
    expected = run(plan(there, choice), 1)
    assert same(attribute(there.linearised, there.logits, there.targets, choice, block_rows), expected)
    uneven = plan(there, choice)
    while uneven.result is None:
        rows = data.draw(st.integers(1, uneven.ready))
        uneven.put(uneven.linearised.rows(uneven.next(rows)))
    assert same(uneven.result, expected)


@given(SEEDS, st.integers(1, 5))
@settings(deadline=None)
def test_with_room_for_every_feature_ranking_once_and_often_give_the_same_graph(seed: int, ranked_every: int) -> None:
    there = world(seed)
    often: Plan[Effects] = Reranking(there.linearised, there.logits, there.targets, there.n, ranked_every)
    assert same(run(often, 4), run(plan(there, Choice()), 4))
    assert same(run(plan(there, Choice(there.n + 5, ranked_every)), 4), run(plan(there, Choice()), 4))


@given(SEEDS, st.integers(1, 11))
@settings(deadline=None)
def test_a_ranking_that_chooses_all_at_once_is_the_same_as_one_ranking(seed: int, count: int) -> None:
    there = world(seed)
    once: Plan[Effects] = Reranking(there.linearised, there.logits, there.targets, count, count)
    assert same(run(once, 4), run(plan(there, Choice(count)), 4))


@given(SEEDS, st.integers(1, 14), st.integers(1, 6), st.randoms())
@settings(deadline=None)
def test_rows_computed_in_shards_give_the_same_graph(seed: int, count: int, n_shards: int, dice: Random) -> None:
    there = world(seed)
    selected = run(Selecting(there.linearised, there.logits, there.targets, count), 2)
    runs = shards(selected.linearised.features, n_shards)
    assert [i for part in runs for i in part] == list(range(min(count, there.n)))
    assert len(runs) <= n_shards
    assert all(runs)
    parts = [(part, run(Scoring(selected.linearised, part), 3)) for part in runs]
    dice.shuffle(parts)
    assert same(assemble(selected, parts), run(plan(there, Choice(count)), 7))


def test_shards_share_the_work_and_not_the_rows() -> None:
    layer = torch.arange(40).repeat_interleave(10)
    features = FeatureNodes(layer, torch.zeros_like(layer), layer, layer.float())
    runs = shards(features, 4)
    work = [int((layer[part.start : part.stop] + 1).sum()) for part in runs]
    assert max(work) - min(work) <= 2 * 40
    assert len(runs[0]) > 2 * len(runs[-1])


def test_shards_of_a_very_large_graph_leave_no_row_out() -> None:
    layer = torch.arange(200_000)
    features = FeatureNodes(layer, torch.full_like(layer, 4_000), layer, layer.float())
    for count in (1, 3, 7, 64):
        runs = shards(features, count)
        assert len(runs) == count
        assert (runs[0].start, runs[-1].stop) == (0, 200_000)


@pytest.mark.parametrize("block_rows", [1, 3, 16, 100])
def test_shards_begin_where_blocks_do(block_rows: int) -> None:
    layer = torch.arange(50)
    features = FeatureNodes(layer, torch.zeros_like(layer), layer, layer.float())
    runs = shards(features, 4, block_rows)
    assert all(part.start % block_rows == 0 for part in runs)
    assert [i for part in runs for i in part] == list(range(50))


def test_a_graph_that_misses_rows_is_not_assembled() -> None:
    there = world(1)
    selected = run(Selecting(there.linearised, there.logits, there.targets, 6), 2)
    rows = run(Scoring(selected.linearised), 3)
    with pytest.raises(RayscopeError, match="2 rows of the graph are missing"):
        assemble(selected, [(range(4), rows[:4])])
    with pytest.raises(RayscopeError, match="1 repeated"):
        assemble(selected, [(range(4), rows[:4]), (range(3, 6), rows[3:])])
    with pytest.raises(RayscopeError, match="were expected"):
        assemble(selected, [(range(6), rows[:5])])


def test_logit_rows_come_first_and_features_by_layer_and_position() -> None:
    there = world(5, n=30)
    going = plan(there, Choice(20))
    order: list[tuple[bool, int, int]] = []
    while going.result is None:
        targets = going.next(4)
        order += [(going.urgent, int(layer), int(position)) for layer, position in zip(*places(targets), strict=True)]
        going.put(going.linearised.rows(targets))
    assert order[:3] == [(True, 3, 1)] * 3
    assert order[3:] == sorted(order[3:])
    assert len(order) == 3 + 20
    assert not any(urgent for urgent, _, _ in order[3:])


def places(targets: TargetRows) -> tuple[torch.Tensor, torch.Tensor]:
    return targets.layer, targets.position


def test_after_one_ranking_no_column_of_other_features_is_computed() -> None:
    there = world(2, n=30)
    going = plan(there, Choice(10))
    widths: list[int] = []
    while going.result is None:
        effects = going.linearised.rows(going.next(8))
        widths.append(effects.shape[1])
        going.put(effects)
    assert widths == [30 + 8] + [10 + 8] * 2


def test_several_rankings_find_what_one_misses() -> None:
    """A feature without a direct effect on the target matters through another."""
    features = FeatureNodes(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), torch.arange(3) * 7, torch.ones(3))
    table = torch.zeros(4, 3 + 6)
    table[3, [0, 2]] = torch.tensor([1.0, 9.0])
    table[2, 1] = 5.0
    there = of_table(table, features, (0, 1), 2, torch.tensor([0.5]))
    assert numbers(there, run(plan(there, Choice(2)), 4)) == [0, 2]
    assert numbers(there, run(plan(there, Choice(2, ranked_every=1)), 4)) == [1, 2]


def test_equals_are_taken_in_node_order() -> None:
    features = FeatureNodes(torch.arange(6) // 2, torch.ones(6).long(), torch.arange(6) * 7, torch.ones(6))
    table = torch.zeros(7, 6 + 8)
    table[6, :6] = torch.tensor([0.0, -2.0, 2.0, 0.0, 2.0, 3.0])
    there = of_table(table, features, (0, 1), 3, torch.tensor([0.5]))
    chosen = [numbers(there, run(plan(there, Choice(count)), 4)) for count in range(1, 7)]
    assert chosen == [[5], [1, 5], [1, 2, 5], [1, 2, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("choice", [Choice(), Choice(5), Choice(5, 2)])
def test_without_active_features_the_graph_is_errors_tokens_and_logits(choice: Choice) -> None:
    there = world(3, n=0)
    effects = run(plan(there, choice), 2)
    assert len(effects.features) == 0
    assert effects.n_active == 0
    assert torch.equal(effects.weights, there.linearised.table)
    selected = select(there.linearised, there.logits, there.linearised.table, 5)
    assert shards(selected.linearised.features, 3) == []
    assert same(assemble(selected, []), effects)


@pytest.mark.parametrize("choice", [Choice(), Choice(4), Choice(4, 2)])
def test_a_prompt_of_one_token_has_a_graph(choice: Choice) -> None:
    there = world(4, n=6, n_tokens=1)
    expected, _ = chosen_features(there, choice.count(6), choice.ranked_every or 6)
    effects = run(plan(there, choice), 3)
    assert effects.n_positions == 1
    assert np.array_equal(effects.weights.numpy(), rectangle(there, expected))


@pytest.mark.parametrize(("choice", "total"), [(Choice(), 12), (Choice(7), 7), (Choice(7, 2), 7), (Choice(99), 12)])
def test_progress_counts_rows_of_features(choice: Choice, total: int) -> None:
    there = world(6)
    going = plan(there, choice)
    assert going.progress == Progress(0, total)
    seen: list[Progress] = []
    run(going, 2, seen.append)
    assert seen[0] == seen[1] == Progress(0, total)  # three logit rows
    assert [step.done for step in seen[1:]] == sorted(step.done for step in seen[1:])
    assert {step.total for step in seen} == {total}
    assert seen[-1] == Progress(total, total)


def test_what_is_next_changes_only_when_rows_come_in() -> None:
    there = world(7)
    for choice in (Choice(5), Choice(5, 2)):
        going = plan(there, choice)
        while going.result is None:
            first, again = going.next(3), going.next(3)
            assert torch.equal(first.direction, again.direction)
            before = going.ready
            with pytest.raises(RayscopeError, match="were wanted"):
                going.put(torch.zeros(len(first), 1))
            with pytest.raises(RayscopeError, match="were wanted"):
                going.put(torch.zeros(before + 1, going.linearised.rows(first).shape[1]))
            assert going.ready == before
            going.put(going.linearised.rows(first))


def test_effects_that_are_no_numbers_are_refused_rather_than_ranked() -> None:
    there = world(8)
    there.linearised.table[there.n + 1, 0] = torch.nan
    with pytest.raises(RayscopeError, match="not finite"):
        run(plan(there, Choice(3)), 2)
    with pytest.raises(RayscopeError, match="not finite"):
        run(plan(there, Choice(3, 1)), 2)


def test_a_target_that_nothing_affects_does_not_spoil_the_ranking() -> None:
    there = world(9)
    there.linearised.table[there.n] = 0.0
    expected, _ = chosen_features(there, 4, 4)
    assert numbers(there, run(plan(there, Choice(4)), 2)) == expected


def test_the_most_influential_are_as_many_as_asked_for() -> None:
    assert most_influential(torch.tensor([0.1, 0.3, 0.2]), 2).tolist() == [1, 2]
    assert most_influential(torch.tensor([0.1, 0.3, 0.2]), 9).tolist() == [0, 1, 2]
    assert most_influential(torch.empty(0), 3).tolist() == []


def test_several_rankings_are_made_only_where_they_can_change_the_choice() -> None:
    assert [Choice(count, 4).ranks_once(10) for count in (4, 5, 9, 10, 11)] == [True, False, False, True, True]
    assert Choice(None, 4).ranks_once(10)
    assert Choice(9).ranks_once(10)


@pytest.mark.parametrize("wrong", [{"max_features": 0}, {"ranked_every": 0}])
def test_a_choice_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one feature"):
        Choice(**wrong)
