"""Specifications: whole or refused, the same bytes for the same job, and never a key."""

from typing import Any

import pytest

from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts
from core.autointerp.jobs.choices import AskedModel, CacheChoice, CacheMaking, LatentChoice, Sampling, Step
from core.autointerp.jobs.sources import is_random, random_source, true_source
from core.autointerp.jobs.specification import JobSpec, Stage
from core.autointerp.providers.ledger import Account, Budget
from core.autointerp.sampling import SamplerSettings
from core.errors import InvalidRequest, NotFound
from tests.unit.autointerp.jobs.scripted_jobs import job_spec


@pytest.mark.parametrize("texts", [DemoTexts(5, 1), FileTexts(("a.txt",)), DatasetTexts("a/b", name="c")])
def test_what_is_written_is_read_again(texts: Any) -> None:
    spec = job_spec(
        cache=CacheChoice("x", CacheMaking(texts, 1000)),
        judge=AskedModel("other", "local"),
        scorers=(Step("detection", {"seed": 3}), Step("detection", label="again")),
        sampling=Sampling(SamplerSettings(n_train=7), "delphi-legacy"),
        baselines=("random-explanation", "random-sae"),
        budget=Budget(1.5, 1000),
        accounts=(Account("key/alice", Budget(2.0), daily=True),),
        deadline_s=12.5,
    )
    assert JobSpec.loaded(spec.dumped()) == spec
    assert JobSpec.loaded(spec.dumped()).dumped() == spec.dumped()


def test_the_same_job_is_the_same_bytes_by_whatever_name_its_types_go() -> None:
    one = job_spec(scorers=(Step("detection", {"seed": 1, "temperature": 0.0}),))
    other = job_spec(scorers=(Step("eleuther_recall", {"temperature": 0.0, "seed": 1}),))
    assert one.dumped() == other.dumped()


def test_stages_are_explanations_then_scores_of_each_and_of_features_once() -> None:
    spec = job_spec(
        explainers=(Step("default"), Step("default-cot")),
        scorers=(Step("detection"), Step("intruder")),
        baselines=("random-explanation",),
    )
    assert [str(stage) for stage in spec.stages()] == [
        "explain/default",
        "explain/default-cot",
        "score/default/detection",
        "score/default/detection/random-explanation",
        "score/default-cot/detection",
        "score/default-cot/detection/random-explanation",
        "score/-/intruder",
    ]
    assert [Stage.read(str(stage)) for stage in spec.stages()] == list(spec.stages())


def test_latents_are_chosen_of_those_that_fire() -> None:
    alive = range(0, 100, 2)
    assert LatentChoice().of("1-a", 100, alive) == list(alive)
    assert LatentChoice("range", 10, 20).of("1-a", 100, alive) == [10, 12, 14, 16, 18]
    assert LatentChoice("list", indices=(7, 4, 4), alive_only=False).of("1-a", 100, alive) == [4, 7]
    assert LatentChoice("all", count=2).of("1-a", 100, alive) == [0, 2]
    drawn = LatentChoice("random", count=9, seed=1)
    assert drawn.of("1-a", 100, alive) == drawn.of("1-a", 100, alive)
    assert len(set(drawn.of("1-a", 100, alive)) & set(alive)) == 9
    assert drawn.of("1-a", 100, alive) != drawn.of("1-b", 100, alive)
    with pytest.raises(InvalidRequest, match="latent 100"):
        LatentChoice("list", indices=(100,)).of("1-a", 100, alive)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": ()},
        {"sources": ("res",)},
        {"sources": ("1-a", "1-a")},
        {"explainers": (), "scorers": (Step("detection"),)},
        {"asked": None},
        {"scorers": (Step("fuzz"), Step("fuzz"))},
        {"concurrency": 0},
        {"budget": Budget(usd=-1.0)},
    ],
)
def test_a_job_that_can_never_be_done_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        job_spec(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AskedModel("m", key="sk-a-real-key"),
        lambda: AskedModel("m", "local", key="configured"),
        lambda: LatentChoice("list"),
        lambda: LatentChoice("random"),
        lambda: LatentChoice("range", 5, 5),
        lambda: CacheChoice("../up"),
        lambda: CacheChoice("a/b"),
        lambda: Step("default", label="a/b"),
        lambda: JobSpec.loaded(b"{}"),
    ],
)
def test_a_part_that_means_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        wrong()


def test_a_type_that_nobody_knows_is_not_found() -> None:
    with pytest.raises(NotFound):
        job_spec(scorers=(Step("nobody"),))


def test_a_random_source_stands_beside_its_true_one() -> None:
    assert random_source("7-res-jb") == "7-random-res-jb"
    assert true_source("7-random-res-jb") == "7-res-jb"
    assert is_random("7-random-res-jb")
    assert not is_random("7-res-jb")
    spec = job_spec(baselines=("random-sae",))
    assert spec.all_sources() == ("3-res", "3-random-res")
