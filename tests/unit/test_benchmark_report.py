"""What the README says about speed is what was measured."""

import copy
from typing import Any

import pytest

from benchmarks import report
from benchmarks.agreement import difference
from benchmarks.load import percentile
from benchmarks.summary import WHOLE, judge, summarise


def seen(per_s: float, p50_ms: float) -> dict[str, Any]:
    return {"clients": 1, "requests": 10, "errors": 0, "per_s": per_s, "p50_ms": p50_ms, "p95_ms": 2 * p50_ms}


def one_round(*, ours_p50_ms: float = 100.0, ours_per_s: float = 24.0) -> dict[str, Any]:
    def server(p50_ms: float, per_s: float, start_s: float) -> dict[str, Any]:
        routes = {"single": {"1": seen(1000 / p50_ms, p50_ms), "16": seen(per_s, 16_000 / per_s)}}
        return {"start_s": start_s, "peak_pss_bytes": 2**30, "processes": 1, "routes": routes}

    def alone(p50_ms: float) -> dict[str, Any]:
        return {"1": {"p50_ms": p50_ms, "per_s": 10.0}, "16": {"p50_ms": 500.0, "per_s": 32.0}}

    return {
        "peer": server(100.0, 6.0, 9.0),
        "rayscope": server(ours_p50_ms, ours_per_s, 20.0),
        "limit": {"column": {"single": alone(80.0)}, "whole": {"single": alone(90.0)}},
        "interp_engine": None,
    }


def result(*rounds: dict[str, Any]) -> dict[str, Any]:
    summary = summarise(list(rounds))
    machine = {"date": "d", "cpu": "c", "cores": 2, "memory_gib": 4, "busy_percent": 0, "versions": {"ray": "1"}}
    settings = {"routes": ["single"], "clients": [1, 16], "seconds": 8, "rounds": 1, "environment": {}, "threads": 2}
    return {
        "machine": machine,
        "settings": settings,
        "demo": {"error": "no demo"},
        "summary": summary,
        "aims": judge(summary),
        "rounds": list(rounds),
    }


def test_the_readme_says_what_was_recorded():
    readme = report.README.read_text()
    assert report.place_all(readme) == readme


def test_only_what_is_between_the_markers_is_replaced():
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.place(readme, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.place(report.place(readme, "new"), "new") == report.place(readme, "new")


@pytest.mark.parametrize("readme", ["", report.BEGIN, report.END + report.BEGIN])
def test_a_readme_without_markers_is_refused(readme: str):
    with pytest.raises(ValueError, match="markers"):
        report.place(readme, "new")


def test_a_missed_aim_is_shown_as_missed():
    slow = result(one_round(ours_p50_ms=130.0))
    judged = {(aim["name"].split(":")[0], aim["route"]): aim for aim in slow["aims"]}
    assert judged["p50 at 1 client / (a)", "single"] | {"name": ""} == {
        "name": "",
        "route": "single",
        "bound": 1.1,
        "measured": 1.3,
        "met": False,
    }
    assert judged["p50 at 1 client / (c) unbatched", "single"]["measured"] == pytest.approx(130 / 80, abs=1e-3)
    assert judged["req/s at 16 clients / (a)", "single"]["met"]
    assert "| **not met** |" in report.tables(slow)


def test_every_aim_can_be_met():
    assert all(aim["met"] for aim in result(one_round())["aims"])


def test_rounds_are_compared_by_their_median_and_errors_add_up():
    rounds = [one_round(ours_p50_ms=p50_ms) for p50_ms in (100.0, 400.0, 110.0)]
    for one in rounds:
        one["rayscope"]["routes"]["single"]["1"]["errors"] = 2
    ours = summarise(rounds)["rayscope"]["routes"]["single"]["1"]
    assert (ours["p50_ms"], ours["errors"]) == (110.0, 6)


def test_both_limits_of_single_are_kept():
    limit = summarise([one_round()])["limit"]
    assert (limit["single"]["1"]["p50_ms"], limit[WHOLE]["1"]["p50_ms"]) == (80.0, 90.0)


def test_a_route_that_was_not_measured_by_an_engine_has_no_figure():
    line = next(line for line in report.tables(result(one_round())).splitlines() if line.startswith("| single | 100.0"))
    assert line == "| single | 100.0 | **100.0** | - | 80.0 |"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"values": [0.0, 1.002]}, "answer.values[1]"),
        ({"values": [0.0]}, "answer.values"),
        ({"token": " b"}, "answer.token"),
        ({"index": 8}, "answer.index"),
        ({"index": None}, "answer.index"),
    ],
)
def test_answers_that_differ_are_told_apart(change: dict[str, Any], place: str):
    answer = {"values": [0.0, 1.0], "token": " a", "index": 7}
    found = difference(answer, copy.deepcopy(answer) | change)
    assert found is not None
    assert found.startswith(f"{place}:")


def test_answers_agree_within_the_tolerance():
    assert difference({"values": [0.0, 1.0]}, {"values": [0.0, 1.0005]}) is None


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (95, 10.0), (99, 10.0), (1, 1.0)])
def test_percentiles_are_observed_values(percent: int, value: float):
    assert percentile([float(n) for n in range(1, 11)], percent) == value
