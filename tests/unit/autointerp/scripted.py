"""A language model in this process that answers by a function and remembers what it was asked."""

import asyncio
from collections.abc import Callable, Sequence

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Ask, Reply, TokenChoice, Usage

Answer = str | BaseException | Reply


class ScriptedModel:
    """Answers questions by a script; `peak` is how many it had before it answered the first of them."""

    name = "scripted"

    def __init__(self, answer: Callable[[Ask], Answer]) -> None:
        self._answer = answer
        self.asked: list[Ask] = []
        self.in_flight = 0
        self.peak = 0

    async def ask(self, question: Ask) -> Reply:
        self.asked.append(question)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(0)
            answer = self._answer(question)
        finally:
            self.in_flight -= 1
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Reply):
            return answer
        return Reply(answer, Usage(10, 2, 0.001, 1), self.name)

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        return await asyncio.gather(*(self.ask(question) for question in questions))


def in_turn(*answers: Answer) -> Callable[[Ask], Answer]:
    """Answers one by one, the last for ever."""
    left = list(answers)
    return lambda question: left.pop(0) if len(left) > 1 else left[0]


def shown_examples(question: Ask) -> list[str]:
    """The texts of the `Example i: ` lines of a judge's question."""
    lines = question.messages[-1].content.split("\n")
    return [line.partition(":")[2].removeprefix(" ") for line in lines if line.startswith("Example ")]


def judging(fits: Callable[[str], bool]) -> Callable[[Ask], str]:
    """A judge that says of each text what `fits` says."""
    return lambda question: str([int(fits(text)) for text in shown_examples(question)])


def with_logprobs(text: str, tokens: Sequence[TokenChoice]) -> Reply:
    return Reply(text, Usage(calls=1), "scripted", tuple(tokens))


def active(*tokens: str, at: int, strength: float = 4.0, quantile: int | None = None) -> Example:
    """A text where the feature fires at one token and half as strongly at the next, if there is one."""
    activations = [0.0] * len(tokens)
    activations[at] = strength
    if at + 1 < len(tokens):
        activations[at + 1] = strength / 4
    return Example(tokens, tuple(activations), quantile)


def silent(*tokens: str) -> Example:
    return Example(tokens, (0.0,) * len(tokens), distance=0.25)


def cats_and_stones(n_active: int = 18, n_silent: int = 5) -> FeatureRecord:
    """A feature that fires at ` cat`, with texts about stones where it does not."""
    return FeatureRecord(
        FeatureName("demo", "3-res", 7),
        train=tuple(active("My", " cat", " slept", f" {i}", "\n", at=1, strength=9.0 - i / 2) for i in range(5)),
        test=tuple(
            active("The", " cat", " sat", f" {i}", at=1, strength=1.0 + i, quantile=1 + i % 3) for i in range(n_active)
        ),
        silent=tuple(silent("A", " stone", " fell", f" {i}", " down") for i in range(n_silent)),
        top_logits=(" meow", " purr"),
        bottom_logits=(" granite",),
    )
