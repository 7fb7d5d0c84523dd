"""What a score is made of: one row per thing that was judged.

Rows are what metrics are computed from and what a reply's breakdown shows. A row that could not be read from the
judge's answer is kept with its truth and without a judgement, so that it is counted instead of lost.

Rows of one score are of one type. Not here: the metrics, and the shapes of replies.
"""

from dataclasses import dataclass

from core.autointerp.examples import Example


@dataclass(frozen=True, slots=True)
class Judgement:
    """An example, whether it should fit the explanation and whether it was said to (detection, fuzz).

    Attributes:
        example: What was shown.
        truth: Whether it fits: the feature fires where the text (or its marks) says so.
        prediction: What the judge said; None if its answer could not be read.
        probability: The judge's probability that it fits, where log-probabilities were asked for.
        text: The text as it was shown, marks included.
        highlighted: Whether tokens were marked in it.
    """

    example: Example
    truth: bool
    prediction: bool | None
    probability: float | None
    text: str
    highlighted: bool

    @property
    def quantile(self) -> int | None:
        """Which part of the feature's range the example comes from, if known."""
        return self.example.quantile

    @property
    def failed(self) -> bool:
        """Whether nobody could read what the judge said of it."""
        return self.prediction is None

    @property
    def correct(self) -> bool | None:
        """Whether the judge was right; None if its answer could not be read."""
        return None if self.prediction is None else self.prediction == self.truth


@dataclass(frozen=True, slots=True)
class Similarity:
    """How near an example's embedding is to the explanation's (embedding).

    Attributes:
        example: What was embedded.
        truth: Whether the feature fires in it.
        similarity: Cosine, between -1 and 1.
    """

    example: Example
    truth: bool
    similarity: float

    @property
    def quantile(self) -> int | None:
        """Which part of the feature's range the example comes from, if known."""
        return self.example.quantile

    @property
    def failed(self) -> bool:
        """Never: an embedding has no answer to misread."""
        return False


@dataclass(frozen=True, slots=True)
class SideChosen:
    """Whether a held-out text was nearer to its own kind than to the other (example-embedding).

    Attributes:
        text: The held-out text, marks included.
        truth: Whether the feature fires in it.
        quantile: Which part of the feature's range the active side comes from.
        margin: Mean cosine to the active texts less mean cosine to the others.
    """

    text: str
    truth: bool
    quantile: int | None
    margin: float

    @property
    def failed(self) -> bool:
        """Never: an embedding has no answer to misread."""
        return False


@dataclass(frozen=True, slots=True)
class IntruderFound:
    """One round of finding the text where the feature is silent among those where it fires (intruder).

    Attributes:
        texts: The texts as they were shown.
        intruder: Which of them does not belong, from 0.
        prediction: Which the judge named; None if its answer could not be read.
        quantile: Which part of the feature's range the others come from.
        reason: What the judge wrote before its answer.
    """

    texts: tuple[str, ...]
    intruder: int
    prediction: int | None
    quantile: int | None
    reason: str

    @property
    def failed(self) -> bool:
        """Whether nobody could read what the judge said."""
        return self.prediction is None

    @property
    def correct(self) -> bool | None:
        """Whether the judge was right; None if its answer could not be read."""
        return None if self.prediction is None else self.prediction == self.intruder


@dataclass(frozen=True, slots=True)
class Simulated:
    """An example and the activations that somebody who knows only the explanation expects (simulation).

    Attributes:
        example: What was simulated.
        expected: The expected activation of each of its tokens, 0 to 10 (0 to 9 out of log-probabilities); None if
            the answer could not be read.
    """

    example: Example
    expected: tuple[float, ...] | None

    @property
    def quantile(self) -> int | None:
        """Which part of the feature's range the example comes from, if known."""
        return self.example.quantile

    @property
    def failed(self) -> bool:
        """Whether nobody could read the answer."""
        return self.expected is None


@dataclass(frozen=True, slots=True)
class Surprise:
    """How well a text is foreseen with and without the explanation (surprisal).

    Attributes:
        example: The text.
        truth: Whether the feature fires in it.
        plain_nats: Mean loss of its tokens behind words that explain nothing; None if they were not found.
        told_nats: Mean loss behind the explanation; likewise.
    """

    example: Example
    truth: bool
    plain_nats: float | None
    told_nats: float | None

    @property
    def quantile(self) -> int | None:
        """Which part of the feature's range the example comes from, if known."""
        return self.example.quantile

    @property
    def decrease(self) -> float | None:
        """By how much the explanation lowers the loss, in nats per token."""
        return None if self.plain_nats is None or self.told_nats is None else self.plain_nats - self.told_nats

    @property
    def failed(self) -> bool:
        """Whether the text's tokens were not found in a prompt."""
        return self.decrease is None


@dataclass(frozen=True, slots=True)
class SteeredTold:
    """Two continuations of a prompt, and whether the one with the feature pushed was told (intervention).

    Attributes:
        prompt: What was continued.
        plain: By the model as it is.
        pushed: By the model with the feature pushed.
        correct: Whether the judge named the pushed one; None if its answer could not be read, or nobody was asked
            because the two are the same.
    """

    prompt: str
    plain: str
    pushed: str
    correct: bool | None

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return self.correct is None


Row = Judgement | Similarity | SideChosen | IntruderFound | Simulated | Surprise | SteeredTold
