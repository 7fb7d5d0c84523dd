"""Stages of one application share a budget of devices."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID

from cluster.policies import Demand, ShareDevices, share_out

DEMANDS = st.builds(
    lambda load, least, more, share: Demand(load, least, least + more, share),
    st.floats(0, 50),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
)


def test_whoever_has_most_to_do_per_replica_comes_first() -> None:
    demands = {"Tracer": Demand(1.0, 1, 4, 0.5), "Attributor": Demand(9.0, 1, 8, 0.25)}
    assert share_out(demands, 2.0) == {"Tracer": 1, "Attributor": 6}
    demands["Tracer"] = Demand(4.0, 1, 4, 0.5)
    assert share_out(demands, 2.0) == {"Tracer": 2, "Attributor": 4}


def test_a_stage_without_a_device_has_what_it_wants() -> None:
    assert share_out({"Publisher": Demand(5.5, 1, 8, 0.0), "Tracer": Demand(9, 1, 9, 1.0)}, 2) == {
        "Publisher": 6,
        "Tracer": 2,
    }


@given(st.dictionaries(st.sampled_from("abcd"), DEMANDS), st.floats(0, 8))
def test_the_budget_holds_and_nothing_that_fits_is_withheld(demands: dict[str, Demand], budget: float) -> None:
    given_out = share_out(demands, budget)
    taken = sum(number * demands[name].share for name, number in given_out.items())
    assert taken <= max(budget, sum(one.least * one.share for one in demands.values())) + 1e-6
    for name, number in given_out.items():
        assert demands[name].least <= number <= max(demands[name].wanted, demands[name].least)
        if number < demands[name].wanted:
            assert taken + demands[name].share > budget - 1e-6


def test_serve_is_told_a_number_for_each_deployment() -> None:
    def context(requests: float) -> Any:
        config = SimpleNamespace(get_target_ongoing_requests=lambda: 2.0)
        return SimpleNamespace(
            total_num_requests=requests,
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=4,
            config=config,
        )

    tracer, attributor = DeploymentID("Tracer", "graphs"), DeploymentID("Attributor", "graphs")
    policy = ShareDevices(1.0, {"Tracer": 0.5, "Attributor": 0.25})
    assert policy({tracer: context(0), attributor: context(20)}) == ({tracer: 1, attributor: 2}, {})
