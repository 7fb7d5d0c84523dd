"""What several folders share: a fake hub for the whole run, and models read from it.

Hugging Face libraries read their cache's address when they are imported, so it is set here, before anything else.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

_HUB_ROOT = Path(tempfile.mkdtemp(prefix="rayscope-hub-"))
os.environ.update(HF_HOME=str(_HUB_ROOT), HF_HUB_CACHE=str(_HUB_ROOT / "hub"), HF_HUB_OFFLINE="1")
# For tiny tensors a second thread is five times the work: it spins.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def hub() -> Path:
    """A Hugging Face home whose cache holds tiny random models under real ids. The whole run reads from it."""
    from tests.tiny_models import build_hub

    build_hub(_HUB_ROOT)
    return _HUB_ROOT


@pytest.fixture(scope="session")
def gpt2(hub: Path) -> Any:
    """The tiny GPT-2 as Rayscope loads it."""
    from core.engine.model import EagerModel
    from tests.tiny_models import GPT2_ID

    return EagerModel.load(GPT2_ID, device="cpu")


@pytest.fixture(scope="session")
def hf_gpt2(hub: Path) -> Any:
    """The same weights as plain `transformers` loads them, with eager attention: the independent answer."""
    from transformers import AutoModelForCausalLM

    from tests.tiny_models import GPT2_ID

    return AutoModelForCausalLM.from_pretrained(GPT2_ID, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def world(gpt2: Any, hf_gpt2: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny GPT-2 with SAEs of many kinds: a `Gpt2WithSaes`."""
    from tests.gpt2_with_saes import Gpt2WithSaes

    return Gpt2WithSaes(gpt2, hf_gpt2, tmp_path_factory.mktemp("saes"))


def pytest_unconfigure() -> None:
    """Removes the hub."""
    shutil.rmtree(_HUB_ROOT, ignore_errors=True)
