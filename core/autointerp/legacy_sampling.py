"""`sampler: delphi-legacy`: the examples that delphi 0.1.3 itself would choose, for comparing our numbers with its.

It is what it is there: train and test are drawn from the same pool with the same seed, so they overlap (at its defaults
20 to 40 % of the test set was in the prompt), silent windows are drawn with repetition, and every feature has the same
seeds. Only the global random state is left alone: the same generators, seeded the same, are private here.

Source of the rules: `samplers.py` and `random_non_activating_windows` of `constructors.py` in `delphi/latents`,
0.1.3. Its quantiles count from 0 for the strongest; ours from 1 for the weakest.

Deliberately not here: delphi's windows. Its choice of which to centre is inverted, and those that it does centre carry
wrong activations.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.sampling import SamplerSettings

_SEED: Final = 22
_SILENT_SEED: Final = 42


def sample_as_delphi(
    name: FeatureName, active: Sequence[Example], silent: Sequence[Example], settings: SamplerSettings
) -> FeatureRecord:
    """A feature's record with the train, test and silent examples of delphi, in delphi's order.

    Args:
        name: Which feature.
        active: All windows where it fires; equals keep their order.
        silent: All windows where it does not, in the order of the corpus.
        settings: What is wanted; `seed` and `min_examples` play no part.
    """
    ranked = sorted(active, key=lambda example: -example.maximum)
    return FeatureRecord(
        name=name,
        train=tuple(_train(ranked, settings)),
        test=tuple(_by_quantile(ranked, settings.n_quantiles, settings.n_test)) if settings.n_test else (),
        silent=tuple(_silent(silent, settings.n_silent)),
    )


def _train(ranked: Sequence[Example], settings: SamplerSettings) -> Sequence[Example]:
    match settings.train_type:
        case "top":
            return ranked[: settings.n_train]
        case "random":
            enough = len(ranked) >= settings.n_train
            return random.Random(_SEED).sample(ranked, settings.n_train) if enough else ranked
        case "quantiles":
            return _by_quantile(ranked, settings.n_quantiles, settings.n_train)
        case "mix":
            n_top = int(settings.n_train * settings.ratio_top)
            n_others = int(settings.n_train * (1 - settings.ratio_top))
            return [*ranked[:n_top], *_by_quantile(ranked[n_top:], settings.n_quantiles, n_others)]


def _by_quantile(ranked: Sequence[Example], n_quantiles: int, wanted: int) -> list[Example]:
    stream = random.Random(_SEED)
    size, each = len(ranked) // n_quantiles, wanted // n_quantiles
    chosen: list[Example] = []
    for number in range(n_quantiles):
        part = ranked[number * size : (number + 1) * size]
        few = len(part) < each
        chosen += [replace(one, quantile=n_quantiles - number) for one in (part if few else stream.sample(part, each))]
    return chosen


def _silent(candidates: Sequence[Example], wanted: int) -> list[Example]:
    if wanted == 0 or len(candidates) < wanted:
        return []
    import torch

    generator = torch.Generator().manual_seed(_SILENT_SEED)
    picks: list[int] = torch.randint(0, len(candidates), (wanted,), generator=generator).tolist()
    return [candidates[pick] for pick in picks]
