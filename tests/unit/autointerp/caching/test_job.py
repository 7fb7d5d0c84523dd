import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.autointerp.caching import loaded, parts
from core.autointerp.caching.corpus import DemoTexts, FileTexts
from core.autointerp.caching.job import CachingJob, cache_activations
from core.autointerp.caching.manifest import FILE_NAME, Manifest, Unit
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.caching.stored import StoredCache
from core.catalogue.catalogue import SourceFilter
from core.errors import InvalidRequest, NotFound, RayscopeError, TooLarge, Unavailable
from tests.unit.autointerp.caching.conftest import CONTEXT, demo_spec

KILLED_AT_SYNC = """
import os, signal, sys
from pathlib import Path
from core.autointerp.caching.job import cache_activations
from tests.unit.autointerp.caching.conftest import demo_spec

left, sync = int(sys.argv[2]), os.fsync

def killing(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

os.fsync = killing
cache_activations(demo_spec(Path(sys.argv[1])))
"""


class Crash(BaseException):
    """Not an error that anybody handles."""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def crash_after(monkeypatch, syncs):
    """Lets so many files be written and ends the job in the middle of the next."""
    left = [syncs]
    sync = os.fsync

    def crashing(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", crashing)


def test_a_job_that_was_killed_goes_on_and_comes_to_the_same_bytes(tmp_path, demo_folder):
    root = Path(__file__).parents[4]
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AT_SYNC, str(tmp_path), "16"], cwd=root, timeout=300, check=False
    )
    assert child.returncode == -9
    done = Manifest.read(tmp_path)
    assert 0 < len(done.units("part")) < 5
    assert list(tmp_path.rglob(".*.partial"))  # it died while writing
    cache_activations(demo_spec(tmp_path))
    assert bytes_of(tmp_path) == bytes_of(demo_folder)


@pytest.mark.parametrize("syncs", [0, 1, 8, 36, 43])
def test_a_crash_at_any_write_is_made_good(tmp_path, demo_folder, monkeypatch, syncs):
    with monkeypatch.context() as patched, pytest.raises(Crash):
        crash_after(patched, syncs)
        cache_activations(demo_spec(tmp_path))
    with pytest.raises((Unavailable, InvalidRequest)):
        StoredCache.open(tmp_path)
    cache_activations(demo_spec(tmp_path))
    assert bytes_of(tmp_path) == bytes_of(demo_folder)


def test_a_finished_job_is_known_without_loading_the_model(demo_folder, monkeypatch):
    monkeypatch.setattr(loaded.EagerModel, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    before = bytes_of(demo_folder)
    result = cache_activations(demo_spec(demo_folder))
    assert result.windows == 40
    assert set(result.records) == set(result.alive) == {"1-res-demo", "2-res-demo"}
    assert 0 < result.alive["1-res-demo"] <= 1024
    assert bytes_of(demo_folder) == before


def test_only_parts_that_are_missing_are_recorded(tmp_path, monkeypatch, demo_folder):
    cache_activations(demo_spec(tmp_path))
    (tmp_path / "records/1-res-demo/part-00003.safetensors").unlink()
    made = []
    record_part = loaded.record_part
    monkeypatch.setattr(loaded, "record_part", lambda *given: made.append(given[1].number) or record_part(*given))
    cache_activations(demo_spec(tmp_path))
    assert made == [3]
    assert bytes_of(tmp_path) == bytes_of(demo_folder)  # in the same order, too


def test_files_that_a_worker_wrote_elsewhere_are_not_entered(tmp_path):
    begun = CachingJob.begin(demo_spec(tmp_path / "cache"))
    file = parts.write_tensors(tmp_path / "elsewhere", "x.safetensors", {"x": np.arange(3)})
    with pytest.raises(Unavailable, match="not in the cache's folder"):
        begun.add(Unit("part/0", (file,), {"windows": 8}))
    assert begun.parts == []


def test_damage_is_found_by_its_sum_and_made_good(tmp_path, demo_folder):
    cache_activations(demo_spec(tmp_path))
    assert Manifest.read(tmp_path).damaged() == []
    path = "records/2-res-demo/part-00001.safetensors"
    content = bytearray((tmp_path / path).read_bytes())
    content[-1] ^= 1
    (tmp_path / path).write_bytes(content)
    assert Manifest.read(tmp_path).damaged() == [path]
    cache_activations(demo_spec(tmp_path), check_sums=True)
    assert Manifest.read(tmp_path).damaged() == []
    assert (tmp_path / path).read_bytes() == (demo_folder / path).read_bytes()


def test_progress_counts_to_the_end_with_a_rate(tmp_path):
    class Ticking:
        def __init__(self):
            self.now = 0.0

        def time(self):
            return self.now

        def monotonic(self):
            self.now += 1.0
            return self.now

    seen = []
    cache_activations(demo_spec(tmp_path), seen.append, clock=Ticking())
    recording = [at for at in seen if at.stage == "recording"]
    assert [at.done for at in recording] == [8, 16, 24, 32, 40]
    assert {at.of for at in recording} == {40}
    assert [at.tokens_per_s for at in recording] == pytest.approx([8 * CONTEXT] * 5)  # a part a second
    assert [at.eta_s for at in recording] == pytest.approx([4, 3, 2, 1, 0])
    distilling = [at for at in seen if at.stage == "distilling"]
    assert [at.done for at in distilling] == [400, 800, 1024, 1424, 1824, 2048]
    assert {at.of for at in distilling} == {2048}


def test_another_job_does_not_go_on_in_the_same_folder(demo_folder):
    before = bytes_of(demo_folder)
    with pytest.raises(InvalidRequest, match="differ in texts, threshold"):
        cache_activations(demo_spec(demo_folder, threshold=0.5, texts=DemoTexts(300, seed=6)))
    assert bytes_of(demo_folder) == before


def test_a_corpus_that_changed_is_not_gone_on_with(tmp_path):
    text, folder = tmp_path / "text.txt", tmp_path / "cache"
    text.write_text("The dog runs into the house. " * 200)
    spec = demo_spec(folder, texts=FileTexts((str(text),)), n_tokens=16 * CONTEXT)
    cache_activations(spec)
    text.write_text("The cat runs into the house. " * 200)
    with pytest.raises(InvalidRequest, match="changed since part 0"):
        cache_activations(spec)


def test_a_short_corpus_is_read_to_its_end_and_an_empty_one_is_refused(tmp_path):
    result = cache_activations(demo_spec(tmp_path / "a", texts=DemoTexts(20)))
    assert 0 < result.windows < 40
    (tmp_path / "text.txt").write_text("Too short.")
    with pytest.raises(InvalidRequest, match="shorter than one window"):
        cache_activations(demo_spec(tmp_path / "b", texts=FileTexts((str(tmp_path / "text.txt"),))))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"threshold": -1.0}, InvalidRequest),
        ({"threshold": float("nan")}, InvalidRequest),
        ({"n_tokens": CONTEXT - 1}, InvalidRequest),
        ({"reservoirs": ReservoirShape(window_tokens=5)}, InvalidRequest),
        ({"wanted": SourceFilter(include=("nothing",))}, InvalidRequest),
        ({"source_sets": ("other",)}, NotFound),
    ],
)
def test_a_job_that_can_not_be_done_is_refused_before_it_begins(tmp_path, changes, error):
    with pytest.raises(error):
        cache_activations(demo_spec(tmp_path / "cache", **changes))
    assert not (tmp_path / "cache").exists()


def test_a_part_with_too_many_activations_leaves_nothing_behind(tmp_path):
    from core.autointerp.caching.recording import RecordingLimits

    with pytest.raises(TooLarge):
        cache_activations(demo_spec(tmp_path, limits=RecordingLimits(max_records=10)))
    assert list(bytes_of(tmp_path)) == [FILE_NAME]


def test_a_line_cut_short_is_no_line_and_damage_inside_is_said(tmp_path):
    manifest = Manifest.open(tmp_path, {"job": 1})
    file = parts.write_tensors(tmp_path, "x.safetensors", {"x": np.arange(3)})
    manifest.add(Unit("part/0", (file,), {"n": 3}))
    with (tmp_path / FILE_NAME).open("ab") as stream:
        stream.write(b'{"unit": "part/1", "fi')
    again = Manifest.open(tmp_path, {"job": 1})
    assert "part/0" in again
    assert "part/1" not in again
    again.add(Unit("part/1", (file,), {"n": 3}))
    assert [unit.name for unit in Manifest.read(tmp_path).units("part")] == ["part/0", "part/1"]
    with (tmp_path / FILE_NAME).open("ab") as stream:
        stream.write(b"rubbish\n")
    with pytest.raises(RayscopeError, match="damaged"):
        Manifest.read(tmp_path)
