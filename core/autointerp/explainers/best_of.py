"""Several explanations, and the one that a scorer finds best.

The scorer must not choose by the examples that the chosen one is judged on later, so it never sees `record.test`. One
train example of four is kept from the explainer and stands for the test set; of the silent examples the first half is
used. Explanations whose score is invalid come last.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from core.autointerp.examples import FeatureRecord
from core.autointerp.explainers.explainer import Explainer, train_examples
from core.autointerp.language_model import Usage
from core.autointerp.results import Explanation, Score
from core.autointerp.scorers.scorer import Scorer
from core.errors import InvalidRequest

_HELD_OUT: Final = 4

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BestOfExplainer:
    """Asks every candidate and keeps the best explanation."""

    candidates: tuple[Explainer, ...]
    scorer: Scorer

    async def explain(self, record: FeatureRecord) -> Explanation:
        """The explanation with the highest score on held-out train examples.

        Raises:
            InvalidRequest: There are less than two train examples.
        """
        seen, held_out = _split(record)
        found = await _all(candidate.explain(seen) for candidate in self.candidates)
        usage = sum((explanation.usage for explanation in found), Usage())
        texts = list(dict.fromkeys(explanation.text for explanation in found if explanation.status == "ok"))
        if not texts:
            return replace(found[0], usage=usage)
        scores = await _all(self.scorer.score(held_out, text) for text in texts)
        usage = sum((score.usage for score in scores), usage)
        ranked = sorted(range(len(texts)), key=lambda i: -_rank(scores[i]))
        chosen = next(explanation for explanation in found if explanation.text == texts[ranked[0]])
        return replace(chosen, usage=usage, alternatives=tuple(texts[i] for i in ranked[1:]))


def _split(record: FeatureRecord) -> tuple[FeatureRecord, FeatureRecord]:
    train = train_examples(record)
    if len(train) < 2:
        raise InvalidRequest(
            "the best of several explanations is chosen by examples held out from them, and there is only one example",
            "Give at least two examples where the feature fires, or use one explainer.",
        )
    held = train[1::_HELD_OUT]
    seen = tuple(example for i, example in enumerate(train) if i % _HELD_OUT != 1)
    silent = record.silent[: (len(record.silent) + 1) // 2]
    return replace(record, train=seen, test=()), replace(record, train=seen, test=held, silent=silent)


def _rank(score: Score) -> float:
    return float("-inf") if score.value is None else score.value


async def _all(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first failed, the others were cancelled
    return [task.result() for task in tasks]
