"""Examples of a job's latents out of a real cache of the demo, which is made when it is missing."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from core.autointerp.caching.corpus import DemoTexts, WindowShape
from core.autointerp.caching.job import cache_activations
from core.autointerp.caching.progress import CachingProgress
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.caching.specification import CachingSpec
from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.jobs.choices import CacheChoice, CacheMaking, Sampling
from core.autointerp.jobs.records import CachedFeatures, Caches
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.sampling import SamplerSettings
from core.demo import DEMO_MODEL_ID
from core.errors import InvalidRequest, NotFound
from tests.truth import folder_sae
from tests.unit.autointerp.jobs.scripted_jobs import Desk, ScriptedWorkers, in_a_loop, job_spec

SOURCE = "1-res-demo"
RANDOM = "1-random-res-demo"
MAKING = CacheMaking(
    DemoTexts(300, seed=5),
    n_tokens=40 * 32,
    windows=WindowShape(32, windows_per_part=8),
    reservoirs=ReservoirShape(window_tokens=16, top=8, per_octave=4, silent_pool=48, seed=3),
    latents_per_range=400,
)


def demo_job(making: CacheMaking | None = MAKING, **changes: Any) -> JobSpec:
    wishes = {
        "model": DEMO_MODEL_ID,
        "sources": (SOURCE,),
        "cache": CacheChoice("demo", making),
        "sampling": Sampling(SamplerSettings(n_train=5, n_test=5, n_silent=8, min_examples=3)),
    }
    return job_spec(**(wishes | changes))


def opened(caches: Caches, spec: JobSpec, report: Callable[[CachingProgress], None] = lambda _: None) -> CachedFeatures:
    return asyncio.run(caches.open(spec, report))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def features(root: Path) -> Iterator[CachedFeatures]:
    features = opened(Caches((root,), cache_activations), demo_job())
    yield features
    asyncio.run(features.aclose())


def a_feature(features: CachedFeatures) -> FeatureName:
    """One that fires in about a quarter of the windows."""
    reservoir = features._of(SOURCE).range_of(SOURCE, 0).reservoir
    return FeatureName(DEMO_MODEL_ID, SOURCE, int(abs(reservoir.fired_windows - 20).argmin()))


def record_of(features: CachedFeatures, name: FeatureName) -> FeatureRecord:
    record = features.read(name)
    assert isinstance(record, FeatureRecord)
    return record


def test_a_cache_that_is_missing_is_made_and_told_of_and_then_used(root: Path, features: CachedFeatures) -> None:
    again: list[CachingProgress] = []
    opened(Caches((root,), cache_activations), demo_job(), again.append)
    assert again == []
    assert opened(Caches((root.parent / "nothing", root), None), demo_job(None)).n_latents(SOURCE) > 0


def test_a_cache_that_nobody_can_make_is_not_found(tmp_path: Path) -> None:
    for make, spec in ((None, demo_job()), (cache_activations, demo_job(None))):
        with pytest.raises(NotFound):
            opened(Caches((tmp_path,), make), spec)


def test_a_cache_of_other_sources_is_refused(root: Path, features: CachedFeatures) -> None:
    with pytest.raises(InvalidRequest, match="2-res-demo"):
        opened(Caches((root,), None), demo_job(sources=(SOURCE, "2-res-demo")))


def test_latents_that_fire_are_those_with_examples(features: CachedFeatures) -> None:
    alive = features.alive(SOURCE)
    assert 0 < len(alive) < features.n_latents(SOURCE)
    dead = next(latent for latent in range(features.n_latents(SOURCE)) if latent not in set(alive))
    reason = features.read(FeatureName(DEMO_MODEL_ID, SOURCE, dead))
    assert isinstance(reason, str) and "never fires" in reason
    reasons = [features.read(FeatureName(DEMO_MODEL_ID, SOURCE, latent)) for latent in alive]
    assert any(isinstance(record, FeatureRecord) for record in reasons)
    assert all("needed" in reason for reason in reasons if isinstance(reason, str))


def test_a_record_is_what_the_sampler_chooses(features: CachedFeatures) -> None:
    record = record_of(features, a_feature(features))
    assert (len(record.train), len(record.test), len(record.silent)) == (5, 5, 8)
    assert not {one.text for one in record.train} & {one.text for one in record.test}
    assert record.top_logits


def test_delphis_own_choice_can_be_asked_for(root: Path, features: CachedFeatures) -> None:
    settings = SamplerSettings(n_train=5, n_test=10, n_silent=8, n_quantiles=2)
    spec = demo_job(sampling=Sampling(settings, "delphi-legacy"))
    legacy = record_of(opened(Caches((root,), None), spec), a_feature(features))
    assert legacy.top_logits
    assert {one.text for one in legacy.train} & {one.text for one in legacy.test}  # as it is there


def test_hard_silent_examples_are_where_similar_features_fire_and_this_one_does_not(
    root: Path, features: CachedFeatures
) -> None:
    spec = demo_job()
    hard = opened(Caches((root,), None), replace(spec, sampling=replace(spec.sampling, silent="similar-features")))
    name = a_feature(features)
    record = record_of(hard, name)
    near = [one for one in record.silent if one.distance is not None]
    assert near
    cache = features._of(SOURCE)
    dense = np.zeros((cache.n_windows, cache.context_tokens), np.float32)
    for first, records in cache.records(SOURCE, range(name.index, name.index + 1)):
        dense[records.windows + first, records.positions] = records.activations
    firing = dense.reshape(-1, cache.window_tokens).max(1) > 0
    texts: dict[str, set[bool]] = {}
    for number, fires in enumerate(firing):
        ids = [token for token in cache.window(number).tolist() if token != features._tokenizer.bos_id]
        texts.setdefault("".join(features._tokenizer.str_tokens(ids)), set()).add(bool(fires))
    assert all(False in texts[one.text] for one in near)


def test_a_random_sae_has_a_cache_of_its_own_over_the_same_texts(root: Path, features: CachedFeatures) -> None:
    spec = demo_job(baselines=("random-sae",))
    beside = opened(Caches((root,), cache_activations), spec)
    assert beside.n_latents(RANDOM) == beside.n_latents(SOURCE)
    name = FeatureName(DEMO_MODEL_ID, RANDOM, next(iter(beside.alive(RANDOM))))
    assert beside.read(name)
    assert beside._of(RANDOM).job["texts"] == beside._of(SOURCE).job["texts"]
    true, drawn = (
        folder_sae(folder).W_dec.detach().double()
        for folder in (
            Path(__file__).parents[4] / "core/demo/artefacts/res-demo" / SOURCE,
            root / "demo.random-0.saes/random-res-demo" / RANDOM,
        )
    )
    np.testing.assert_allclose(drawn.norm(dim=1), true.norm(dim=1), rtol=1e-4)
    cosines = (drawn * true).sum(1) / drawn.norm(dim=1) / true.norm(dim=1)
    assert abs(float(cosines.mean())) < 0.1


def test_a_job_makes_its_cache_and_says_how_far_it_is(tmp_path: Path) -> None:
    @in_a_loop
    async def run() -> None:
        caches = Caches((tmp_path / "caches",), cache_activations)
        async with Desk(tmp_path / "jobs.sqlite", ScriptedWorkers(), open_features=caches.open) as desk:
            job_id = (await desk.control.submit(demo_job(latents=replace(demo_job().latents, alive_only=True)))).job.id
            job = await desk.until(job_id, "succeeded")
            assert job.counts.ended == job.counts.total > 0
            events, _ = await desk.control.events(job_id, 0, 1)
            told = [event.body["caching"] for event in events if "caching" in event.body]
            assert told
            assert told[0]["stage"] == "recording"

    run()


def test_a_cache_that_nobody_waits_for_any_more_is_not_finished(tmp_path: Path) -> None:
    begun, go_on, ended = Event(), Event(), Event()

    def make(spec: CachingSpec, report: Callable[[CachingProgress], None]) -> None:
        begun.set()
        assert go_on.wait(20)
        try:
            report(CachingProgress("recording", 1, 2))
        finally:
            ended.set()
        raise AssertionError("nobody stopped it")

    @in_a_loop
    async def run() -> None:
        caches = Caches((tmp_path,), make)
        desk = Desk(tmp_path / "jobs.sqlite", ScriptedWorkers(), open_features=caches.open)
        async with desk:
            job_id = (await desk.control.submit(demo_job())).job.id
            await asyncio.to_thread(begun.wait, 20)
            await desk.control.cancel(job_id)
            go_on.set()
            assert await asyncio.to_thread(ended.wait, 20)
            assert (await desk.control.report(job_id)).job.status == "cancelled"

    run()
