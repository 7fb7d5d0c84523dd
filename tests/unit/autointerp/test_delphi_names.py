"""Configurations of delphi, old and new, mean here what they mean there; what can not is said."""

import dataclasses
from typing import Any

import pytest

from core.autointerp.caching.corpus import DatasetTexts
from core.autointerp.delphi_import import delphi_module
from core.autointerp.delphi_names import read_settings
from core.autointerp.sampling import SamplerSettings
from core.errors import InvalidRequest


def test_the_early_versions_example_reads_as_todays() -> None:
    """The example of delphi's early README, and the same in the names of 0.1.3."""
    early = read_settings(
        {
            "FeatureCache": {"batch_size": 8, "n_tokens": 10_000_000, "ctx_len": 256, "n_splits": 5},
            "FeatureConfig": {"width": 131072, "min_examples": 200, "max_examples": 10000, "n_splits": 5},
            "ExperimentConfig": {
                "n_examples_train": 40,
                "n_examples_test": 100,
                "n_quantiles": 10,
                "example_ctx_len": 32,
                "n_random": 100,
                "train_type": "quantiles",
                "test_type": "even",
            },
        }
    )
    today = read_settings(
        {
            "LatentCache": {"batch_size": 8, "n_tokens": 10_000_000, "cache_ctx_len": 256, "n_splits": 5},
            "SamplerConfig": {
                "n_examples_train": 40,
                "n_examples_test": 100,
                "n_quantiles": 10,
                "train_type": "quantiles",
                "test_type": "quantiles",
            },
            "ConstructorConfig": {"example_ctx_len": 32, "min_examples": 200, "n_non_activating": 100},
        }
    )
    assert dataclasses.replace(early, unused=()) == dataclasses.replace(today, unused=())
    assert today.sampler == SamplerSettings(
        n_train=40, n_test=100, n_silent=100, n_quantiles=10, train_type="quantiles", min_examples=200
    )
    assert (today.n_tokens, today.windows.context_tokens, today.reservoirs.window_tokens) == (10_000_000, 256, 32)
    assert today.recording.batch_tokens == 8 * 256
    assert early.unused == (
        "FeatureCache.n_splits",
        "FeatureConfig.width",
        "FeatureConfig.max_examples",
        "FeatureConfig.n_splits",
    )


def test_every_setting_of_the_installed_delphi_is_known_with_its_default() -> None:
    config = delphi_module("config")
    sections: dict[str, dict[str, Any]] = {
        "sampler_cfg": dataclasses.asdict(config.SamplerConfig()),
        "constructor_cfg": dataclasses.asdict(config.ConstructorConfig()),
        "cache_cfg": dataclasses.asdict(config.CacheConfig()),
    }
    settings = read_settings(sections)
    assert settings.texts == DatasetTexts("EleutherAI/SmolLM2-135M-10B", "train[:1%]")
    assert settings.sampler == SamplerSettings(40, 50, 50, 10, "quantiles", 0.2, 200)
    assert settings.negatives == "random"
    assert len(settings.unused) == 6


def test_what_is_left_out_keeps_our_default() -> None:
    settings = read_settings({})
    assert (settings.sampler, settings.texts, settings.n_tokens) == (SamplerSettings(), None, None)
    assert read_settings({"ConstructorConfig": {"non_activating_source": "FAISS"}}).negatives == "similar_texts"
    both = read_settings({"ExperimentConfig": {"batch_size": 5}, "FeatureCache": {"batch_size": 8}})
    assert (both.recording.batch_tokens, both.unused) == (8 * 256, ("ExperimentConfig.batch_size",))


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"SamplingConfig": {}}, "no section SamplingConfig"),
        ({"SamplerConfig": {"n_train": 3}}, "no setting n_train"),
        ({"SamplerConfig": {"n_examples_train": "many"}}, "n_examples_train is a number"),
        ({"SamplerConfig": {"n_examples_train": 0}}, "can not be met"),
        ({"SamplerConfig": {"train_type": "best"}}, "train_type is one of top"),
        ({"ExperimentConfig": {"test_type": "activation"}}, "test_type can be"),
        (
            {"ConstructorConfig": {"non_activating_source": "neighbours", "neighbours_type": "co-occurrence"}},
            "neighbours_type can be",
        ),
        ({"CacheConfig": {"batch_size": 0}}, "batch_size"),
        ({"CacheConfig": {"dataset_repo": 3}}, "dataset_repo is a text"),
        (
            {"SamplerConfig": {"n_quantiles": 5}, "ExperimentConfig": {"n_quantiles": 10}},
            "5 in SamplerConfig and 10 in ExperimentConfig",
        ),
    ],
)
def test_what_can_not_be_met_is_named(configuration: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_settings(configuration)
