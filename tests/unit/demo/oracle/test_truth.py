"""The oracle on real activations of the demo: named features, through the real explainers and scorers.

The right explanation is the name that the corpus's own labels gave the feature (`core.demo.features`), a wrong one is
that of another feature. A feature fires where it is above 2, since below that the dictionaries are mostly noise.
"""

from statistics import fmean

import pytest

from core.autointerp.caching.corpus import DemoTexts, WindowShape
from core.autointerp.caching.exemplars import ExemplarReader
from core.autointerp.caching.job import cache_activations
from core.autointerp.caching.specification import CachingSpec
from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import FeatureRecord
from core.autointerp.sampling import SamplerSettings, sample
from core.catalogue.catalogue import SourceFilter
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.prompts import PromptTokenizer

from .asking import explained, value

NAMED = {
    "a capital": ("1-res-demo", 834),
    "an animal": ("1-res-demo", 88),
    "an instrument": ("1-res-demo", 257),
    "French": ("2-res-demo", 1),
    "about to name a capital": ("2-res-demo", 281),
}
JUDGED = ("detection", "fuzz")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureRecord]:
    folder = tmp_path_factory.mktemp("cache")
    spec = CachingSpec(
        model=DEMO_MODEL_ID,
        source_sets=("res-demo",),
        texts=DemoTexts(4000, seed=9),
        n_tokens=60_000,
        folder=str(folder),
        windows=WindowShape(256, windows_per_part=64),
        wanted=SourceFilter(include=("^[12]-",)),
        threshold=2.0,
    )
    cache_activations(spec)
    reader = ExemplarReader(StoredCache.open(folder), PromptTokenizer.load(str(ARTEFACTS / "model")))
    found: dict[str, FeatureRecord] = {}
    for concept, (source, index) in NAMED.items():
        seen = reader.exemplars(source, index)
        found[concept] = sample(
            seen.name,
            seen.active,
            seen.silent,
            SamplerSettings(train_type="quantiles"),
            top_logits=seen.top_logits,
            bottom_logits=seen.bottom_logits,
        )
    return found


@pytest.mark.parametrize("concept", sorted(NAMED))
@pytest.mark.parametrize("explainer", ["default", "default-cot", "contrastive"])
def test_named_features_are_explained_by_their_names(
    records: dict[str, FeatureRecord], concept: str, explainer: str
) -> None:
    assert explained(records[concept], explainer).text == concept


@pytest.mark.parametrize("concept", sorted(NAMED))
@pytest.mark.parametrize("scorer", JUDGED)
def test_the_right_explanation_scores_high_and_a_wrong_one_low(
    records: dict[str, FeatureRecord], concept: str, scorer: str
) -> None:
    right = value(records[concept], scorer, concept)
    wrong = value(records[concept], scorer, "a profession")
    assert right >= 0.7
    assert wrong <= 0.6
    assert right >= wrong + 0.2


@pytest.mark.parametrize("scorer", JUDGED)
def test_explanations_of_other_features_score_about_a_half(records: dict[str, FeatureRecord], scorer: str) -> None:
    values = [
        value(record, scorer, other) for concept, record in records.items() for other in NAMED if other != concept
    ]
    assert fmean(values) == pytest.approx(0.5, abs=0.07)


def test_simulated_activations_follow_the_true_ones_of_the_right_explanation_alone(
    records: dict[str, FeatureRecord],
) -> None:
    assert value(records["an instrument"], "simulation", "an instrument") >= 0.7
    assert abs(value(records["an instrument"], "simulation", "a capital")) <= 0.2


def test_the_intruder_among_a_features_texts_is_found_more_often_than_by_guessing(
    records: dict[str, FeatureRecord],
) -> None:
    assert value(records["an instrument"], "intruder", "") >= 0.5
