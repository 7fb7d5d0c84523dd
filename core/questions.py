"""What can be asked of a Runner, and what it answers. Plain data: crosses process borders, imports no torch.

A *question* is about one prompt and is answered by one forward pass (`core.readings`); a *lookup* needs weights only.
Prompts arrive as token ids: tokenising is the Gateway's work. Positions count from 0 over all tokens, BOS included.
Arrays in answers are float32 NumPy arrays unless said otherwise.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Pooling = Literal["mean", "last", "max"]


@dataclass(frozen=True, slots=True)
class FeatureQuestion:
    """How strongly does one feature fire at each position?

    Attributes:
        tokens: Token ids of the prompt.
        source: Source id of the SAE.
        index: Feature index.
        silent_positions: Positions reported as 0 whatever the SAE says (every BOS token).
        drop_first: Leave position 0 out of the answer.
        dfa: Also attribute the strongest activation to earlier positions.
    """

    tokens: tuple[int, ...]
    source: str
    index: int
    silent_positions: tuple[int, ...] = ()
    drop_first: bool = False
    dfa: bool = False


@dataclass(frozen=True, slots=True)
class Attribution:
    """DFA of one activation: `values[pos]` sums what each reported position contributed at `target`."""

    values: Floats
    target: int


@dataclass(frozen=True, slots=True)
class FeatureAnswer:
    """Activation at each reported position `[pos]`, and DFA where asked and available."""

    values: Floats
    attribution: Attribution | None = None


@dataclass(frozen=True, slots=True)
class VectorQuestion:
    """What is the dot product of a direction with the activation at a hook point, at each position?"""

    tokens: tuple[int, ...]
    hook_name: str
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TopFeaturesQuestion:
    """Which features of several SAEs fire most strongly on the prompt?

    Attributes:
        tokens: Token ids of the prompt.
        sources: Source ids; ties go to the earlier one.
        k: How many features to report.
        sort_positions: Rank by the sum over these positions; empty: by the maximum over all.
        silent_positions: Positions counted and reported as 0.
        feature_filter: Only these feature indexes take part; None: all.
        dfa_sources: Sources whose reported features also get DFA.
    """

    tokens: tuple[int, ...]
    sources: tuple[str, ...]
    k: int
    sort_positions: tuple[int, ...] = ()
    silent_positions: tuple[int, ...] = ()
    feature_filter: tuple[int, ...] | None = None
    dfa_sources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TopFeaturesAnswer:
    """The strongest features in ranking order.

    Attributes:
        sources: Source id of each feature, `n` of them.
        indexes: Feature index, `[n]`.
        values: Activations, `[n, pos]`.
        keys: What they are ranked by, `[n]`.
        attributions: DFA per feature where available.
    """

    sources: tuple[str, ...]
    indexes: Integers
    values: Floats
    keys: Floats
    attributions: dict[int, Attribution] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActiveFeaturesQuestion:
    """Which features of one SAE are not zero, and where? Positions before `first_position` are left out."""

    tokens: tuple[int, ...]
    source: str
    first_position: int = 0


@dataclass(frozen=True, slots=True)
class ActiveFeaturesAnswer:
    """Non-zero activations in coordinate form, ordered by position, then index; three arrays `[n]`."""

    positions: Integers
    indexes: Integers
    values: Floats


@dataclass(frozen=True, slots=True)
class TopPerTokenQuestion:
    """Which `k` features of one SAE are strongest at each position?"""

    tokens: tuple[int, ...]
    source: str
    k: int


@dataclass(frozen=True, slots=True)
class TopPerTokenAnswer:
    """Feature indexes and activations, both `[pos, k]`, strongest first."""

    indexes: Integers
    values: Floats


@dataclass(frozen=True, slots=True)
class ResidualQuestion:
    """What is the residual stream after each of `layers` at the last token?"""

    tokens: tuple[int, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResidualAnswer:
    """`values[i]` is `resid_post` of `layers[i]` at the last token, `[layers, d_model]`; `dtype` is the model's."""

    layers: tuple[int, ...]
    values: Floats
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class AttentionQuestion:
    """What does one attention head attend to? Keeps the `top` strongest keys per query that reach `floor`."""

    tokens: tuple[int, ...]
    layer: int
    head: int
    top: int = 8
    floor: float = 0.005


@dataclass(frozen=True, slots=True)
class AttentionAnswer:
    """Kept probabilities in coordinate form, ordered by query, then key.

    Attributes:
        queries: Query positions, `[n]`.
        keys: Key positions, `[n]`.
        values: Probabilities, `[n]`.
        largest: Largest probability outside row 0 and column 0; 0 for a one-token prompt.
    """

    queries: Integers
    keys: Integers
    values: Floats
    largest: float


@dataclass(frozen=True, slots=True)
class PredictionSimilarityQuestion:
    """How similar are the codes that a temporal SAE predicts at each pair of positions?"""

    tokens: tuple[int, ...]
    source: str


@dataclass(frozen=True, slots=True)
class MatrixAnswer:
    """Cosine similarities `[pos - 1, pos - 1]`; the first position (BOS) is left out."""

    matrix: Floats


@dataclass(frozen=True, slots=True)
class MessageMeansQuestion:
    """What is the mean activation at a hook point over each span of the prompt?

    Attributes:
        tokens: Token ids of the prompt.
        hook_name: Hook point to read.
        spans: Runs of positions `(start, end)`, the end excluded; they may be empty.
    """

    tokens: tuple[int, ...]
    hook_name: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class MessageMeansAnswer:
    """One mean per span, `[spans, d]`; zeros for an empty span."""

    means: Floats


@dataclass(frozen=True, slots=True)
class DirectionQuestion:
    """How far does each span of the prompt lie along a direction?

    An activation `x` reads `x.v`, after `centre` is taken off and, with `normalize`, what is left has length 1.

    Attributes:
        tokens: Token ids of the prompt.
        hook_name: Hook point to read.
        spans: Runs of positions `(start, end)`, the end excluded; they may be empty.
        direction: `v`, `[d]`.
        pooling: `mean` reads the span's mean activation, `last` its last one, `max` is the largest of all its readings.
        centre: Subtracted first, `[d]`; None: nothing is.
        normalize: Read the angle alone.
    """

    tokens: tuple[int, ...]
    hook_name: str
    spans: tuple[tuple[int, int], ...]
    direction: tuple[float, ...]
    pooling: Pooling = "mean"
    centre: tuple[float, ...] | None = None
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class DirectionAnswer:
    """One reading per span, `[spans]`; 0 for an empty span."""

    values: Floats


@dataclass(frozen=True, slots=True)
class EncoderVectorLookup:
    """The encoder column of a feature."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class EncoderVectorAnswer:
    """Encoder column `[d_in]` and the hook point that it reads."""

    vector: Floats
    hook_name: str


@dataclass(frozen=True, slots=True)
class NeighboursLookup:
    """Features of `source` whose decoder rows are nearest to feature `index`'s row, or to `vector`: exactly one."""

    source: str
    k: int
    index: int | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class NeighboursAnswer:
    """Nearest features first: indexes and cosines, `n` each."""

    indexes: list[int]
    cosines: list[float]


Question = (
    FeatureQuestion
    | VectorQuestion
    | TopFeaturesQuestion
    | ActiveFeaturesQuestion
    | TopPerTokenQuestion
    | ResidualQuestion
    | AttentionQuestion
    | PredictionSimilarityQuestion
    | MessageMeansQuestion
    | DirectionQuestion
)
Lookup = EncoderVectorLookup | NeighboursLookup
Answer = Any


def sources_of(question: Question | Lookup) -> tuple[str, ...]:
    """The SAEs that must be resident to answer."""
    if isinstance(question, TopFeaturesQuestion):
        return question.sources
    source = getattr(question, "source", None)
    return () if source is None else (source,)
