"""Which caches are found below folders, when, and what of them is remembered."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.autointerp.caching import library
from core.autointerp.caching.job import cache_activations
from core.autointerp.caching.library import ActivationCaches
from core.autointerp.caching.manifest import FILE_NAME
from core.autointerp.examples import FeatureName
from core.catalogue.catalogue import SourceFilter
from core.demo import DEMO_MODEL_ID
from core.errors import InvalidRequest, NotFound, Unavailable
from tests.unit.autointerp.caching.conftest import CONTEXT, demo_spec

SOURCE = "1-res-demo"


class HeldClock:
    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


@pytest.fixture
def clock():
    return HeldClock()


@pytest.fixture
def caches(tmp_path, tokenizer, clock):
    return ActivationCaches([tmp_path / "caches"], tokenizer_of=lambda _: tokenizer, refresh_s=10, clock=clock)


def put(demo_folder: Path, place: Path) -> Path:
    """A copy of the demo's cache in its place, there at once."""
    beside = place.with_name(f"{place.name}.copied")
    shutil.copytree(demo_folder, beside)
    beside.rename(place)
    return place


def unfinished(folder: Path) -> None:
    """Takes the last range away, as of a job that still runs."""
    lines = (folder / FILE_NAME).read_bytes().splitlines(keepends=True)
    (folder / FILE_NAME).write_bytes(b"".join(lines[:-1]))


@pytest.fixture(scope="session")
def shorter_folder(tmp_path_factory):
    """The same source over fewer tokens."""
    folder = tmp_path_factory.mktemp("shorter")
    cache_activations(demo_spec(folder, n_tokens=16 * CONTEXT, wanted=SourceFilter(include=("^1-",))))
    return folder


def test_a_source_is_found_at_any_depth_and_under_any_name_of_its_model(
    caches, demo_folder, tmp_path, cache, tokenizer
):
    (tmp_path / "caches" / "team" / "demo").mkdir(parents=True)
    put(demo_folder, tmp_path / "caches" / "team" / "demo" / "first")
    latent = int(cache.range_of(SOURCE, 0).reservoir.fired_windows.argmax())
    known = caches.exemplars(FeatureName(DEMO_MODEL_ID, SOURCE, latent), n_silent=7)
    assert known == library.ExemplarReader(cache, tokenizer).exemplars(SOURCE, latent, 7)
    assert len(known.active) > 10
    assert [(cached.model, cached.source, cached.n_latents, cached.n_tokens) for cached in caches.sources()] == [
        (DEMO_MODEL_ID, source, 1024, 40 * CONTEXT) for source in ("1-res-demo", "2-res-demo")
    ]


def test_what_is_not_cached_is_refused_with_what_is(caches, demo_folder, tmp_path):
    with pytest.raises(NotFound) as nothing:
        caches.cache(DEMO_MODEL_ID, SOURCE)
    assert "Nothing is cached yet" in str(nothing.value.hint)
    (tmp_path / "caches").mkdir()
    put(demo_folder, tmp_path / "caches" / "demo")
    for model, source in ((DEMO_MODEL_ID, "3-res-demo"), ("gpt2-small", SOURCE)):
        with pytest.raises(NotFound) as other:
            caches.cache(model, source)
        assert "rayscope-demo/1-res-demo, rayscope-demo/2-res-demo" in str(other.value.hint)
    with pytest.raises(InvalidRequest, match="out of range"):
        caches.exemplars(FeatureName(DEMO_MODEL_ID, SOURCE, 1024))


def test_a_cache_is_found_as_soon_as_its_job_has_finished(caches, demo_folder, tmp_path, clock):
    (tmp_path / "caches").mkdir()
    folder = put(demo_folder, tmp_path / "caches" / "demo")
    whole = (folder / FILE_NAME).read_bytes()
    unfinished(folder)
    with pytest.raises(Unavailable, match="still being cached"):
        caches.reader(DEMO_MODEL_ID, SOURCE)
    assert caches.sources() == ()
    (folder / FILE_NAME).write_bytes(whole)
    assert caches.reader(DEMO_MODEL_ID, SOURCE).exemplars(SOURCE, 0).n_windows == 80  # what is missed is looked for


def test_of_two_caches_the_larger_is_read_whenever_it_came(caches, demo_folder, shorter_folder, tmp_path, clock):
    (tmp_path / "caches").mkdir()
    put(shorter_folder, tmp_path / "caches" / "a")
    assert caches.cache(DEMO_MODEL_ID, SOURCE).n_windows == 16
    larger = put(demo_folder, tmp_path / "caches" / "b")
    assert caches.cache(DEMO_MODEL_ID, SOURCE).n_windows == 16  # what was seen is believed for a while
    clock.now += 10
    assert caches.cache(DEMO_MODEL_ID, SOURCE).n_windows == 40
    assert {cached.source: cached.folder for cached in caches.sources()} == dict.fromkeys(
        ("1-res-demo", "2-res-demo"), larger
    )
    unfinished(larger)
    clock.now += 10
    assert caches.cache(DEMO_MODEL_ID, SOURCE).n_windows == 16  # while the larger is made again


def test_a_cache_that_was_removed_or_made_anew_is_not_read_any_more(
    caches, demo_folder, shorter_folder, tmp_path, clock
):
    (tmp_path / "caches").mkdir()
    folder = put(demo_folder, tmp_path / "caches" / "demo")
    before = caches.reader(DEMO_MODEL_ID, SOURCE)
    shutil.rmtree(folder)
    put(shorter_folder, folder)
    clock.now += 10
    after = caches.reader(DEMO_MODEL_ID, SOURCE)
    assert after is not before
    assert after.exemplars(SOURCE, 0).n_windows == 32
    shutil.rmtree(folder)
    clock.now += 10
    with pytest.raises(NotFound):
        caches.reader(DEMO_MODEL_ID, SOURCE)


def test_a_damaged_cache_hides_no_other(caches, demo_folder, tmp_path):
    (tmp_path / "caches" / "bad").mkdir(parents=True)
    (tmp_path / "caches" / "bad" / FILE_NAME).write_bytes(b"rubbish\n")
    (tmp_path / "caches" / "odd").mkdir()
    (tmp_path / "caches" / "odd" / FILE_NAME).write_bytes(b'{"job": {"model": "rayscope-demo"}}\n')
    put(demo_folder, tmp_path / "caches" / "good")
    assert caches.cache(DEMO_MODEL_ID, SOURCE).n_windows == 40


def test_manifests_that_did_not_change_are_not_read_again_and_nothing_below_a_cache_is_entered(
    caches, demo_folder, tmp_path, clock, monkeypatch
):
    (tmp_path / "caches").mkdir()
    put(demo_folder, tmp_path / "caches" / "demo")
    read = []
    monkeypatch.setattr(
        library.Manifest, "read", lambda folder, whole=library.Manifest.read: read.append(folder) or whole(folder)
    )
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: entered.append(Path(path).name) or scandir(path))
    for _ in range(3):
        clock.now += 10
        caches.cache(DEMO_MODEL_ID, SOURCE)
    assert len(read) == 1
    assert entered == ["caches", "demo"] * 3


def test_so_many_readers_are_remembered(tmp_path, demo_folder, tokenizer):
    caches = ActivationCaches([demo_folder], tokenizer_of=lambda _: tokenizer, max_readers=1)
    first = caches.reader(DEMO_MODEL_ID, "1-res-demo")
    assert caches.reader(DEMO_MODEL_ID, "1-res-demo") is first
    caches.reader(DEMO_MODEL_ID, "2-res-demo")
    assert caches.reader(DEMO_MODEL_ID, "1-res-demo") is not first


def test_threads_share_one_reader_and_one_reading(demo_folder, tokenizer, monkeypatch):
    caches = ActivationCaches([demo_folder], tokenizer_of=lambda _: tokenizer)
    opened = []
    range_of = library.StoredCache.range_of
    monkeypatch.setattr(
        library.StoredCache, "range_of", lambda self, *asked: opened.append(asked) or range_of(self, *asked)
    )
    together = threading.Barrier(8)

    def ask(latent):
        together.wait()
        return caches.exemplars(FeatureName(DEMO_MODEL_ID, SOURCE, latent))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert [known.name.index for known in found] == list(range(8))
    assert len(opened) == 1


def test_the_tokenizer_comes_from_the_catalogue_unless_told(demo_folder):
    known = ActivationCaches([demo_folder]).exemplars(FeatureName(DEMO_MODEL_ID, SOURCE, 0))
    assert len(known.top_logits) == 10
