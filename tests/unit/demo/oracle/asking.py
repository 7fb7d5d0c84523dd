"""Explainers and scorers that ask the oracle, and a feature of the demo's world made by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.providers.model import ProviderModel
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.registry import explainer_type, scorer_type
from core.autointerp.results import Explanation, Score
from core.autointerp.types import Means
from core.deadline import Deadline
from core.demo.oracle import DemoOracle


def means() -> Means:
    oracle = DemoOracle()
    gate = RateGates(RateLimits()).gate(oracle.place, "", oracle.name)
    return Means(Deadline.after(120), model=ProviderModel(oracle, gate))


def explained(record: FeatureRecord, explainer: str, **parameters: Any) -> Explanation:
    return asyncio.run(explainer_type(explainer).build(parameters, means()).explain(record))


def scored(record: FeatureRecord, scorer: str, explanation: str, **parameters: Any) -> Score:
    return asyncio.run(scorer_type(scorer).build(parameters, means()).score(record, explanation))


def value(record: FeatureRecord, scorer: str, explanation: str, **parameters: Any) -> float:
    found = scored(record, scorer, explanation, **parameters)
    assert found.value is not None, found.reason
    return found.value


_ANIMALS = ("cat", "dog", "horse", "cow", "rabbit", "lion", "bear", "frog", "goat", "duck")
_CARRIERS = (
    ("The", " {}", " sleeps", " in", " the", " house", "."),
    ("In", " the", " morning", " Hugo", " sees", " a", " {}", "."),
    ("My", " {}", " likes", " music", ",", " says", " Anna", "."),
)
_OTHERS = ("Monday", "Paris", "bread", "piano", "winter", "France")


def fires_on_animals() -> FeatureRecord:
    """Fires on animals and nowhere else."""

    def text(carrier: tuple[str, ...], word: str, fires: Callable[[str], bool], quantile: int | None) -> Example:
        tokens = tuple(token.format(word) for token in carrier)
        activations = tuple(5.0 if fires(token) else 0.0 for token in carrier)
        return Example(tokens, activations, quantile)

    active = [text(carrier, word, lambda token: "{}" in token, 1) for word in _ANIMALS for carrier in _CARRIERS]
    silent = [text(carrier, word, lambda token: False, None) for word in _OTHERS for carrier in _CARRIERS]
    return FeatureRecord(
        FeatureName("rayscope-demo", "1-made-up", 0),
        train=tuple(active[:15]),
        test=tuple(active[15:]),
        silent=tuple(silent),
        top_logits=(" cat", " horse", " chien", " vaca", " dog"),
        bottom_logits=(" Monday",),
    )
