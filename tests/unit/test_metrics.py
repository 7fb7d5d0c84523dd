"""Promises of `core.metrics`."""

import re

import pytest

from core.metrics import METRICS, NULL_METRICS, Counter, Gauge, Histogram

COUNTED_THINGS = "_entries"  # a number of requests has no unit


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_is_valid_for_prometheus_and_tells_its_unit(metric: Counter | Gauge | Histogram) -> None:
    assert re.fullmatch(r"rayscope(_[a-z]+)+", metric.name)
    if isinstance(metric, Counter):
        assert metric.name.endswith("_total")
    else:
        assert metric.name.endswith(("_seconds", "_bytes", "_tokens", COUNTED_THINGS))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_description_is_a_sentence(metric: Counter | Gauge | Histogram) -> None:
    assert re.fullmatch(r"[A-Z].*\.", metric.description)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_no_tag_repeats_what_ray_adds(metric: Counter | Gauge | Histogram) -> None:
    assert not {"application", "deployment", "replica", "route"} & set(metric.tags)


@pytest.mark.parametrize("metric", [m for m in METRICS if isinstance(m, Histogram)], ids=lambda metric: metric.name)
def test_buckets_are_positive_and_ascend(metric: Histogram) -> None:
    assert metric.buckets
    assert metric.buckets[0] > 0
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_names_are_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))


def test_the_list_holds_every_metric_that_the_module_defines() -> None:
    from core import metrics

    defined = {v.name for v in vars(metrics).values() if isinstance(v, Counter | Gauge | Histogram)}
    assert defined == {metric.name for metric in METRICS}


def test_the_null_sink_takes_everything() -> None:
    for metric in METRICS:
        tags = dict.fromkeys(metric.tags, "x")
        if isinstance(metric, Counter):
            NULL_METRICS.count(metric, **tags)
        elif isinstance(metric, Gauge):
            NULL_METRICS.set(metric, 1.0, **tags)
        else:
            NULL_METRICS.observe(metric, 1.0, **tags)
