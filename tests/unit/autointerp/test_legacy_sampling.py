"""`delphi-legacy` chooses what delphi 0.1.3 chooses, and leaves the global random state alone."""

import importlib.metadata
import random
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from core.autointerp.examples import Example, FeatureName
from core.autointerp.legacy_sampling import sample_as_delphi
from core.autointerp.sampling import SamplerSettings

NAME = FeatureName("m", "0-s", 0)


class Decoder:
    """One text per token id."""

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return [f" t{int(one)}" for one in ids]


@pytest.fixture
def delphi(monkeypatch: pytest.MonkeyPatch) -> Any:
    assert importlib.metadata.version("eai-delphi") == "0.1.3"
    if "delphi.clients.offline" not in sys.modules:
        offline = ModuleType("delphi.clients.offline")
        offline.Offline = type("Offline", (), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "delphi.clients.offline", offline)
    import delphi.config
    import delphi.latents
    import delphi.latents.constructors
    import delphi.latents.samplers

    return delphi


@pytest.fixture(autouse=True)
def keep_the_global_state() -> Any:
    ours, theirs = random.getstate(), torch.random.get_rng_state()
    yield
    random.setstate(ours)
    torch.random.set_rng_state(theirs)


@pytest.mark.parametrize("train_type", ["top", "random", "quantiles", "mix"])
@pytest.mark.parametrize(("pool", "n_train", "n_test"), [(200, 40, 50), (37, 40, 50), (503, 15, 0), (8, 40, 50)])
def test_train_and_test_are_delphis(delphi: Any, train_type: str, pool: int, n_train: int, n_test: int) -> None:
    stream = torch.Generator().manual_seed(pool)
    rows = [(torch.randint(0, 900, (4,), generator=stream), torch.rand(4, generator=stream)) for _ in range(pool)]
    rows.sort(key=lambda row: -float(row[1].max()))
    record = delphi.latents.LatentRecord(delphi.latents.Latent("m", 0))
    record.examples = [delphi.latents.ActivatingExample(tokens=ids, activations=values) for ids, values in rows]
    config = delphi.config.SamplerConfig(n_examples_train=n_train, n_examples_test=n_test, train_type=train_type)
    delphi.latents.samplers.sampler(record, config, Decoder())

    examples = [Example(tuple(Decoder().batch_decode(ids)), tuple(values.tolist())) for ids, values in rows]
    wanted = SamplerSettings(n_train=n_train, n_test=n_test, train_type=train_type)  # type: ignore[arg-type]
    ours = sample_as_delphi(NAME, examples, [], wanted)

    def seen(chosen: Any) -> list[tuple[Any, Any]]:
        return [(tuple(one.str_tokens), tuple(one.activations.tolist())) for one in chosen]

    assert [(one.tokens, one.activations) for one in ours.train] == seen(record.train)
    assert [(one.tokens, one.activations) for one in ours.test] == seen(record.test or [])
    if n_test and train_type == "quantiles":  # other kinds leave delphi's label of what both sets hold to the later one
        assert [one.quantile for one in ours.test] == [10 - one.quantile for one in record.test]
        assert [one.quantile for one in ours.train] == [10 - one.quantile for one in record.train]


@pytest.mark.parametrize(("pool", "wanted"), [(300, 50), (50, 50), (49, 50), (10, 0)])
def test_silent_windows_are_delphis(delphi: Any, pool: int, wanted: int) -> None:
    windows = torch.arange(pool * 4).reshape(pool, 4)
    theirs = delphi.latents.constructors.random_non_activating_windows(
        available_indices=torch.arange(pool), reshaped_tokens=windows, n_not_active=wanted, tokenizer=Decoder()
    )
    examples = [Example(tuple(Decoder().batch_decode(ids)), (0.0,) * 4) for ids in windows]
    fires = Example((" x",), (1.0,))
    ours = sample_as_delphi(NAME, [fires], examples, SamplerSettings(n_silent=wanted))
    assert [one.tokens for one in ours.silent] == [tuple(one.str_tokens) for one in theirs]


def test_the_global_random_state_is_left_alone() -> None:
    before = random.getstate(), torch.random.get_rng_state()
    pool = [Example((f" t{n}",), (1.0 + n,)) for n in range(100)]
    quiet = [Example((f" q{n}",), (0.0,)) for n in range(100)]
    sample_as_delphi(NAME, pool, quiet, SamplerSettings(train_type="mix"))
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
