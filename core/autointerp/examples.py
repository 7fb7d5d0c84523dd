"""What explanations are made from and judged on: short texts, and how strongly a feature fires at each of their tokens.

Plain values that samplers make, explainers and scorers read, and caches store. No torch, no delphi, no tokenizer: an
example carries the texts of its tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One text.

    Attributes:
        tokens: The texts of its tokens, at least one.
        activations: The feature's activation at each, as many and finite.
        quantile: Which part of the feature's range it comes from, 1 the weakest; None if nobody said.
        distance: For a text where the feature is silent, how near it is to those where it fires; None if nobody said.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    quantile: int | None = None
    distance: float | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.tokens)

    @property
    def maximum(self) -> float:
        """Its strongest activation."""
        return max(self.activations)

    @property
    def is_active(self) -> bool:
        """Whether the feature fires anywhere in it."""
        return any(activation > 0 for activation in self.activations)


@dataclass(frozen=True, slots=True)
class FeatureName:
    """Which feature: model id, source id (`7-res-jb`) and index."""

    model: str
    source: str
    index: int

    def __str__(self) -> str:
        return f"{self.model}/{self.source}/{self.index}"


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """A feature and its examples. `train` and `test` have no text in common.

    Attributes:
        name: Which feature; None where only its examples are known.
        train: Active examples to explain it by, strongest first.
        test: Active examples to judge an explanation on.
        silent: Examples where it does not fire.
        top_logits: Tokens whose logits it raises most, if known.
        bottom_logits: Tokens whose logits it lowers most, if known.
    """

    name: FeatureName | None
    train: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    silent: tuple[Example, ...] = ()
    top_logits: tuple[str, ...] = ()
    bottom_logits: tuple[str, ...] = ()
