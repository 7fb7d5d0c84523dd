"""From all that is known of where a feature fires to what an explainer and its judges are shown.

    active windows -> one per text, weakest first, in quantiles -> test: some of every quantile
                                                                -> train: of what is left
    silent windows -> no text that fires                        -> silent: a random few, or those chosen as hard

Train and test never have a text in common: a judge that asks about what the explainer has seen measures memory. The
test set is drawn first, so it covers the feature's whole range, top included, and `train_type="top"` takes the
strongest of the rest. Where there are not enough texts for both, each gets its share.

A quantile is an equal count of texts: the first holds the weakest, the last the strongest. Examples that come with
theirs keep them, as a cache counts over all windows of a corpus and hands out only some; otherwise they are counted
over what is given.

Every choice is drawn from a stream of its own, seeded by the feature's name (`core.autointerp.seeds`); the global
random state is neither read nor written.

Deliberately not here: delphi's own sampler, whose train and test overlap (`core.autointerp.legacy_sampling`), cutting
windows out of a corpus (`core.autointerp.caching`), and finding hard negatives (`core.autointerp.negatives`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Literal

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.seeds import derive_seed
from core.errors import InvalidRequest

TrainType = Literal["top", "random", "quantiles", "mix"]


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How many examples of which kind.

    Attributes:
        n_train: Most examples to explain by.
        n_test: Most active examples to judge on.
        n_silent: Most silent examples to judge on.
        n_quantiles: Parts of the feature's range, where the examples do not say theirs.
        train_type: The strongest (`top`), any (`random`), as many of each quantile (`quantiles`), or `mix`: a share
            of the strongest and the rest from quantiles.
        ratio_top: That share.
        min_examples: Different active texts needed at all.
        seed: Gives another draw for the same feature.
    """

    n_train: int = 40
    n_test: int = 50
    n_silent: int = 50
    n_quantiles: int = 10
    train_type: TrainType = "top"
    ratio_top: float = 0.2
    min_examples: int = 2
    seed: int = 22

    def __post_init__(self) -> None:
        if min(self.n_train, self.n_quantiles, self.min_examples) < 1 or min(self.n_test, self.n_silent) < 0:
            raise ValueError("n_train, n_quantiles and min_examples are at least 1, n_test and n_silent at least 0")
        if not 0.0 <= self.ratio_top <= 1.0:
            raise ValueError(f"ratio_top lies in [0, 1], got {self.ratio_top}")


def sample(
    name: FeatureName,
    active: Sequence[Example],
    silent: Sequence[Example],
    settings: SamplerSettings,
    *,
    top_logits: Sequence[str] = (),
    bottom_logits: Sequence[str] = (),
) -> FeatureRecord:
    """A feature's record.

    The result does not depend on the order of `active` or `silent`, but for texts that fire equally strongly.

    Args:
        name: Which feature.
        active: Windows where it fires, in any order; of those with the same text the strongest counts.
        silent: Candidates where it does not. One whose text is also among `active` is left out: out of its context it
            can not be told from that one.
        settings: What is wanted.
        top_logits: Tokens whose logits it raises most.
        bottom_logits: Tokens whose logits it lowers most.

    Raises:
        InvalidRequest: There are too few different active texts, or an example of the wrong kind.
    """
    if not all(example.is_active for example in active):
        raise InvalidRequest(f"{name} does not fire in an example that is said to be active")
    if any(example.is_active for example in silent):
        raise InvalidRequest(f"{name} fires in an example that is said to be silent")
    ranked = distinct(active)
    if any(example.quantile is None for example in ranked):
        ranked = with_quantiles(ranked, settings.n_quantiles)
    if len(ranked) < settings.min_examples:
        raise InvalidRequest(
            f"{name} fires in {len(ranked)} different texts, {settings.min_examples} are needed",
            "cache more tokens, or lower min_examples",
        )
    n_test = _test_share(len(ranked), settings)
    test = _spread(ranked, n_test, _stream(name, "test", settings))
    held_out = {example.text for example in test}
    left = [example for example in ranked if example.text not in held_out]
    return FeatureRecord(
        name=name,
        train=tuple(_train(left, settings, _stream(name, "train", settings))),
        test=tuple(test),
        silent=tuple(_silent(silent, {example.text for example in ranked}, name, settings)),
        top_logits=tuple(top_logits),
        bottom_logits=tuple(bottom_logits),
    )


def distinct(examples: Sequence[Example]) -> list[Example]:
    """One example per text, the one that fires strongest there; weakest first, equals by text."""
    strongest: dict[str, Example] = {}
    for example in examples:
        known = strongest.get(example.text)
        if known is None or example.maximum > known.maximum:
            strongest[example.text] = example
    return sorted(strongest.values(), key=lambda example: (example.maximum, example.text))


def with_quantiles(ranked: Sequence[Example], n_quantiles: int) -> list[Example]:
    """The same examples, weakest first, each with its quantile from 1.

    Sizes differ by at most one; with fewer examples than quantiles some quantiles are empty.
    """
    edges = _edges(len(ranked), n_quantiles)
    return [
        replace(ranked[position], quantile=number)
        for number, (first, end) in enumerate(pairwise(edges), start=1)
        for position in range(first, end)
    ]


def _edges(count: int, parts: int) -> list[int]:
    return [count * part // parts for part in range(parts + 1)]


def _stream(name: FeatureName, purpose: str, settings: SamplerSettings) -> random.Random:
    return random.Random(derive_seed("sampling", name.model, name.source, name.index, purpose, settings.seed))


def _test_share(count: int, settings: SamplerSettings) -> int:
    wanted = settings.n_train + settings.n_test
    if count >= wanted:
        return settings.n_test
    return count * settings.n_test // wanted  # less than `count`, as n_train is not 0: one is left to explain by


def _train(left: Sequence[Example], settings: SamplerSettings, stream: random.Random) -> list[Example]:
    wanted = min(settings.n_train, len(left))
    match settings.train_type:
        case "top":
            n_top = wanted
        case "random" | "quantiles":
            n_top = 0
        case "mix":
            n_top = int(wanted * settings.ratio_top)
    rest, top = left[: len(left) - n_top], left[len(left) - n_top :]
    others = stream.sample(rest, wanted) if settings.train_type == "random" else _spread(rest, wanted - n_top, stream)
    return sorted([*top, *others], key=lambda example: (-example.maximum, example.text))


def _spread(ranked: Sequence[Example], wanted: int, stream: random.Random) -> list[Example]:
    """`wanted` of the examples, as evenly from their quantiles as those have room, weakest first."""
    parts = [list(part) for _, part in groupby(sorted(ranked, key=_quantile), key=_quantile)]
    for part in parts:
        stream.shuffle(part)
    chosen: list[Example] = []
    while len(chosen) < wanted:
        # A round takes one of each quantile; where fewer are wanted than quantiles have any, chance says of which.
        open_parts = [part for part in parts if part]
        left = wanted - len(chosen)
        round_ = open_parts if left >= len(open_parts) else stream.sample(open_parts, left)
        chosen += [part.pop() for part in round_]
    return sorted(chosen, key=lambda example: (example.maximum, example.text))


def _quantile(example: Example) -> int:
    return example.quantile or 0


def _silent(
    candidates: Sequence[Example], firing: set[str], name: FeatureName, settings: SamplerSettings
) -> list[Example]:
    texts = {example.text: example for example in candidates if example.text not in firing}
    ordered = sorted(texts.values(), key=lambda example: example.text)
    return _stream(name, "silent", settings).sample(ordered, min(settings.n_silent, len(ordered)))
