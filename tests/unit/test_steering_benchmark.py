"""What the README says about the speed of steering was measured, on equal work."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report, steering_report
from benchmarks.steering_cases import PROMPT_TOKENS, SEQUENCES, Shape, agreement, continuation, prompts, ways
from benchmarks.steering_report import ORIENTATION, tables
from benchmarks.steering_summary import judge, summarise
from benchmarks.steering_timing import Order, Tokens, time_by_turns

SHAPE = Shape(n_layers=12, width=64, vocabulary=500)


def one_round(
    *, plain_ms: float = 1000.0, idle: float = 1.005, steered: float = 1.04, pair: float = 1.8, clients: float = 6.0
) -> dict[str, Any]:
    """Times of one model, given as ratios."""
    return {
        "demo": {
            "vllm_plain": {"ms": {"plain": plain_ms}},
            "vllm": {
                "ms": {"idle": plain_ms * idle, "mixed": plain_ms * 1.02, "steered": plain_ms * steered},
                "agreement": 1.0,
            },
            "eager": {
                "ms": {
                    "one": 200.0,
                    "pair": 220.0,
                    "pair in turn": 220.0 * pair,
                    "sixteen": 400.0,
                    "sixteen in turn": 400.0 * clients,
                },
                "agreement": 0.9375,
            },
            "transformers": {"ms": {"one": 300.0, "sixteen": 500.0, "sixteen in turn": 4800.0}},
        }
    }


def result(*rounds: dict[str, Any]) -> dict[str, Any]:
    summary = summarise(rounds, n_tokens=64)
    machine = {"date": "d", "cpu": "c", "cores": 2, "memory_gib": 4, "busy_percent": 0, "versions": {"torch": "1"}}
    settings = {
        "models": ["demo"],
        "rounds": len(rounds),
        "passes": 5,
        "seconds": 1.0,
        "vllm_tokens": 64,
        "eager_tokens": 16,
    }
    return {"machine": machine, "settings": settings, "summary": summary, "aims": judge(summary)}


def test_the_readme_says_what_was_recorded():
    if not steering_report.RESULTS.exists():
        pytest.skip("nothing has been recorded yet")
    readme = report.README.read_text()
    assert report.place_all(readme) == readme


def test_each_section_of_the_readme_is_replaced_by_itself():
    readme = "\n".join([steering_report.BEGIN, "old", report.END, report.BEGIN, "other", report.END])
    placed = report.place(readme, "new", steering_report.BEGIN)
    assert placed == readme.replace("old", "new")
    assert report.place(readme, "new") == readme.replace("other", "new")


def test_a_section_without_its_own_marker_is_refused():
    with pytest.raises(ValueError, match="bench:steering"):
        report.place(f"{report.BEGIN}\n{report.END}", "new", steering_report.BEGIN)


def test_overheads_are_compared_within_a_round():
    rounds = [one_round(plain_ms=ms, idle=idle) for ms, idle in ((1000.0, 1.004), (2000.0, 1.006), (4000.0, 1.2))]
    found = summarise(rounds, n_tokens=64)["demo"]
    assert found["overhead_percent"]["idle"] == pytest.approx(0.6, abs=1e-2)
    assert found["tokens_per_s"]["plain"] == pytest.approx(SEQUENCES * 64 / 2.0)
    assert found["spread_percent"] == pytest.approx(300.0)


def test_one_round_has_no_spread():
    only = result(one_round())
    assert only["summary"]["demo"]["spread_percent"] is None
    assert "| - |" in next(line for line in tables(only).splitlines() if line.startswith("| demo | 1,024"))


def test_every_aim_can_be_met():
    aims = result(one_round())["aims"]
    assert len(aims) == 4
    assert all(aim["met"] for aim in aims)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"idle": 1.02}, "idle"),
        ({"steered": 1.06}, "16 of 16"),
        ({"pair": 1.4}, "STEERED and DEFAULT"),
        ({"clients": 3.9}, "16 clients"),
    ],
)
def test_a_missed_aim_is_shown_as_missed(change: dict[str, float], name: str):
    missed = result(one_round(**change))
    assert [aim["met"] for aim in missed["aims"]].count(False) == 1
    (line,) = (line for line in tables(missed).splitlines() if "**not met**" in line)
    assert name in line


def test_the_tables_give_the_figures_and_say_whose_are_not_ours():
    text = tables(result(one_round()))
    assert "| demo | 1,024 | 1,019 (+0.5 %) | 1,004 (+2.0 %) | 985 (+4.0 %) | - |" in text
    assert "| demo | 1 | - | 300 | **200** (1.5x) |" in text
    assert "| demo | 16 | 4,800 | 500 | **400** (1.2x) |" in text
    assert "| demo | STEERED and DEFAULT, ms | 396 | **220** (1.80x) |" in text
    assert "| demo | 16 clients, sequences/s | 6.67 | **40.00** (6.00x) |" in text
    assert text.endswith(ORIENTATION)


def test_sixteen_sequences_are_steered_in_sixteen_ways_over_all_layers():
    chosen = ways(SHAPE)
    assert len({way.direction.tobytes() for way in chosen}) == SEQUENCES
    assert {way.layer for way in chosen} == set(range(SHAPE.n_layers))
    assert min(Counter(way.method for way in chosen).values()) >= SEQUENCES // 3
    assert all(np.linalg.norm(way.direction) == pytest.approx(1.0, abs=1e-5) for way in chosen)


def test_every_pass_has_prompts_of_its_own():
    drawn = [prompt for number in range(3) for prompt in prompts(SHAPE, number)]
    assert len(set(drawn)) == 3 * SEQUENCES
    assert {len(prompt) for prompt in drawn} == {PROMPT_TOKENS}
    assert prompts(SHAPE, 1) == prompts(SHAPE, 1)


def test_default_is_not_steered():
    prompt = prompts(SHAPE, 0)[0]
    assert continuation(prompt, None, 4).steering is None
    assert continuation(prompt, ways(SHAPE)[0], 4).steering is not None


def test_agreement_counts_the_sequences_that_begin_alike():
    ours = [[1] * 8, [1] * 7 + [2], [1] * 8 + [2]]
    assert agreement(ours, [[1] * 9] * 3) == pytest.approx(2 / 3)


def test_kinds_take_turns_and_every_turn_has_new_prompts():
    seen: list[tuple[str, int]] = []

    def kind(name: str) -> Any:
        async def work(number: int) -> Tokens:
            seen.append((name, number))
            return [(7, 8)]

        return work

    order = Order(Path("model"), passes=2, seconds=0.0, n_tokens=2)
    found = asyncio.run(time_by_turns({"a": kind("a"), "b": kind("b")}, order, "b"))
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 2), ("b", 3), ("a", 4)]
    assert found["written"] == [[7, 8]]
    assert set(found["ms"]) == {"a", "b"}
    assert json.loads(json.dumps(found)) == found


def test_work_that_stops_early_is_refused():
    async def work(_: int) -> Tokens:
        return [(7, 8), (7,)]

    with pytest.raises(RuntimeError, match="asked for 2 tokens"):
        asyncio.run(time_by_turns({"a": work}, Order(Path("model"), passes=1, seconds=0.0, n_tokens=2), "a"))


def test_an_order_survives_the_command_line():
    order = Order(Path("some/model"), passes=3, seconds=0.5, n_tokens=16)
    assert Order.read(order.words) == order
