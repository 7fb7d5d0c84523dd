"""A small cache of the demo, made once."""

from pathlib import Path

import pytest

from core.autointerp.caching.corpus import DemoTexts, WindowShape
from core.autointerp.caching.job import CachingSpec, cache_activations
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.caching.stored import StoredCache
from core.catalogue.catalogue import SourceFilter
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.prompts import PromptTokenizer

CONTEXT = 32


def demo_spec(folder: Path, **changes) -> CachingSpec:
    """Two sources over 40 windows, in five parts and three ranges of latents."""
    settings = {
        "model": DEMO_MODEL_ID,
        "source_sets": ("res-demo",),
        "texts": DemoTexts(300, seed=5),
        "n_tokens": 40 * CONTEXT,
        "folder": str(folder),
        "windows": WindowShape(CONTEXT, windows_per_part=8),
        "reservoirs": ReservoirShape(window_tokens=16, top=5, per_octave=3, silent_pool=24, seed=3),
        "wanted": SourceFilter(include=("^[12]-",)),
        "latents_per_range": 400,
    }
    return CachingSpec(**(settings | changes))


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    cache_activations(demo_spec(folder))
    return folder


@pytest.fixture
def cache(demo_folder):
    return StoredCache.open(demo_folder)


@pytest.fixture(scope="session")
def tokenizer():
    return PromptTokenizer.load(str(ARTEFACTS / "model"))
