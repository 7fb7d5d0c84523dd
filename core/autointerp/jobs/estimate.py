"""Estimates: what a job will take, told before it is begun, from the questions that it would really ask.

    a few latents -> their records -> explainers and scorers over a model that only counts -> times all latents

Every type builds its own prompts from real examples, so their lengths are real; where the cache is not there yet,
examples of the length that it will have stand in. What a model would answer nobody knows: `completion_tokens` is what
answers of that kind usually have, `most_completion_tokens` what was allowed, which is what a budget has to have left.

Deliberately not here: what caching takes, and answers that are in the reply cache and will cost nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.jobs.choices import LatentChoice
from core.autointerp.jobs.specification import JobSpec, Stage
from core.autointerp.jobs.work import Features
from core.autointerp.language_model import Ask, Reply, Usage
from core.autointerp.prompts import load_prompts
from core.autointerp.providers.model import ask_each
from core.autointerp.providers.pricing import Price, prompt_tokens
from core.autointerp.providers.rate import RateLimits
from core.autointerp.registry import explainer_type, scorer_type
from core.autointerp.seeds import derive_seed
from core.autointerp.types import Means
from core.deadline import Deadline
from core.errors import RayscopeError

_SAMPLE: Final = 5
_ENOUGH_S: Final = 300.0
_CALL_S: Final = 2.0
_ANSWER: Final = "[EXPLANATION]: a word\nExplanation: a word\n[1, 0, 1, 0, 1]"
_USUAL_TOKENS: Final = {"explain": 100, "score": 20}
_SIMULATED_TOKENS: Final = 450
_TOKEN: Final = " word"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is known of a language model.

    Attributes:
        price: What it costs; None: nobody knows.
        limits: How fast it may be asked.
    """

    price: Price | None = None
    limits: RateLimits = field(default_factory=RateLimits)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job will take.

    Attributes:
        latents: Latents, those of baselines included.
        units: Units of work.
        calls: Questions to language models.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written, as answers of the kind usually have.
        most_completion_tokens: Tokens written at most.
        usd: Dollars; None if nobody knows a model's price.
        most_usd: Dollars at most.
        minutes: At two seconds a call and the limits that are known.
        sampled: Latents whose questions were counted; 0: made-up ones, as the cache is not there yet.
        left_out: Stages that could not be counted, and why.
    """

    latents: int
    units: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int
    usd: float | None
    most_usd: float | None
    minutes: float
    sampled: int
    left_out: dict[str, str]


@dataclass(slots=True)
class _Counting:
    """A language model that answers the same to everything and counts."""

    usual_tokens: int
    name: str = "counting"
    calls: int = 0
    read: int = 0
    usual: int = 0
    most: int = 0

    async def ask(self, question: Ask) -> Reply:
        """Counts a question."""
        self.calls += 1
        self.read += prompt_tokens(question)
        self.usual += min(question.max_tokens, self.usual_tokens)
        self.most += question.max_tokens
        return Reply(_ANSWER, Usage(), self.name)

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        """Counts questions."""
        return await ask_each(self.ask, questions)


async def estimate(
    spec: JobSpec, features: Features | None, n_latents: Callable[[str], int], terms_of: Callable[[Stage], Terms]
) -> Estimate:
    """What a job will take.

    Args:
        spec: The job.
        features: Its latents; None if their cache is not there yet.
        n_latents: Latents of a source, for that case.
        terms_of: What is known of the language model that a stage asks.
    """
    await asyncio.to_thread(load_prompts)
    latents = await asyncio.to_thread(_latents, spec, features, n_latents)
    count = sum(len(found) for found in latents.values())
    records = await _records(spec, features, latents)
    stages = list(spec.stages())
    calls = read = usual = most = 0
    usd: float | None = 0.0
    most_usd: float | None = 0.0
    busy_s = 0.0
    left_out: dict[str, str] = {}
    for stage in stages:
        if spec.model_for(stage) is None:
            continue
        counted = _Counting(_usual_tokens(spec, stage))
        refused: list[str] = []
        for record in records:
            try:
                await _ask(spec, stage, record, counted)
            except RayscopeError as error:  # as it would be of this latent in the job
                refused.append(error.text)
        if len(refused) == len(records):
            left_out[str(stage)] = refused[0]
            continue
        share = count / len(records)
        terms = terms_of(stage)
        calls += round(counted.calls * share)
        read += round(counted.read * share)
        usual += round(counted.usual * share)
        most += round(counted.most * share)
        usd = _plus(usd, terms.price, counted.read * share, counted.usual * share)
        most_usd = _plus(most_usd, terms.price, counted.read * share, counted.most * share)
        busy_s += _seconds(terms.limits, counted.calls * share, (counted.read + counted.usual) * share)
    return Estimate(
        latents=count,
        units=count * len(stages),
        calls=calls,
        prompt_tokens=read,
        completion_tokens=usual,
        most_completion_tokens=most,
        usd=usd,
        most_usd=most_usd,
        minutes=busy_s / 60,
        sampled=0 if features is None else len(records),
        left_out=left_out,
    )


def _latents(spec: JobSpec, features: Features | None, n_latents: Callable[[str], int]) -> dict[str, list[int]]:
    if features is not None:
        return {
            source: spec.latents.of(source, features.n_latents(source), features.alive(source))
            for source in spec.all_sources()
        }
    choice: LatentChoice = replace(spec.latents, alive_only=False)
    return {source: choice.of(source, n_latents(source), ()) for source in spec.all_sources()}


async def _records(spec: JobSpec, features: Features | None, latents: dict[str, list[int]]) -> list[FeatureRecord]:
    """Records of a few latents, any that there are; one that is made up if there are none."""
    names = [FeatureName(spec.model, source, index) for source, found in latents.items() for index in found]
    Random(derive_seed("estimate", spec.seed)).shuffle(names)
    records: list[FeatureRecord] = []
    for name in names[: 4 * _SAMPLE] if features is not None else []:
        assert features is not None
        record = await features.record(name)
        if isinstance(record, FeatureRecord):
            records.append(record)
        if len(records) == _SAMPLE:
            break
    return records or [_made_up(spec)]


def _made_up(spec: JobSpec) -> FeatureRecord:
    make, settings = spec.cache.make, spec.sampling.settings
    n_tokens = 32 if make is None else make.reservoirs.window_tokens

    def example(fires: bool, number: int) -> Example:
        tokens = (_TOKEN,) * (n_tokens - 1) + (f" {number}",)
        return Example(tokens, (float(fires), *(0.0,) * (n_tokens - 1)), quantile=1 + number % settings.n_quantiles)

    return FeatureRecord(
        FeatureName(spec.model, spec.sources[0], 0),
        train=tuple(example(True, number) for number in range(settings.n_train)),
        test=tuple(example(True, settings.n_train + number) for number in range(settings.n_test)),
        silent=tuple(example(False, -1 - number) for number in range(settings.n_silent)),
        top_logits=(_TOKEN,) * 10,
        bottom_logits=(_TOKEN,) * 10,
    )


async def _ask(spec: JobSpec, stage: Stage, record: FeatureRecord, model: _Counting) -> None:
    step = spec.step(stage)
    means = Means(Deadline.after(_ENOUGH_S), model)
    if stage.kind == "explain":
        await explainer_type(step.type).build(step.parameters, means).explain(record)
    else:
        await scorer_type(step.type).build(step.parameters, means).score(record, "words that stand for something")


def _usual_tokens(spec: JobSpec, stage: Stage) -> int:
    return _SIMULATED_TOKENS if spec.step(stage).type == "simulation" else _USUAL_TOKENS[stage.kind]


def _plus(sum_usd: float | None, price: Price | None, read: float, written: float) -> float | None:
    if sum_usd is None or price is None:
        return None
    return sum_usd + price.cost_usd(round(read), round(written))


def _seconds(limits: RateLimits, calls: float, tokens: float) -> float:
    """The longest that any of a model's limits makes it take."""
    waits = [calls * _CALL_S / limits.in_flight]
    if limits.requests_per_minute is not None:
        waits.append(calls / limits.requests_per_minute * 60)
    if limits.tokens_per_minute is not None:
        waits.append(tokens / limits.tokens_per_minute * 60)
    return max(waits)
