"""Every explainer and scorer by name, with what it takes and what it needs.

    name or alias, parameters -> checked against the type's model -> built with the means at hand -> Explainer, Scorer

What is listed here works. A type says what it needs besides examples, so that a request that cannot be met is refused
before anything is asked. What only some parameters need (`log_probabilities`) they say themselves.

Aliases are names that people know these by: delphi's classes of today and of its early versions, and Neuronpedia's
types.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from core.autointerp.explainers.best_of import BestOfExplainer
from core.autointerp.explainers.default import (
    ContrastiveExplainer,
    ContrastiveParameters,
    DefaultExplainer,
    DefaultParameters,
    SingleTokenExplainer,
    SingleTokenParameters,
)
from core.autointerp.explainers.explainer import Explainer
from core.autointerp.explainers.max_activation import MaxActivationExplainer, MaxActivationParameters
from core.autointerp.explainers.output_centric import OutputCentricExplainer, OutputCentricParameters
from core.autointerp.scorers.classification import ClassificationParameters, ClassificationScorer, FuzzParameters
from core.autointerp.scorers.embedding import (
    EmbeddingParameters,
    EmbeddingScorer,
    ExampleEmbeddingParameters,
    ExampleEmbeddingScorer,
)
from core.autointerp.scorers.intervention import InterventionParameters, InterventionScorer
from core.autointerp.scorers.intruder import IntruderParameters, IntruderScorer
from core.autointerp.scorers.recall_alt import RecallAltParameters, RecallAltScorer
from core.autointerp.scorers.scorer import Scorer
from core.autointerp.scorers.simulation import SimulationParameters, SimulationScorer
from core.autointerp.scorers.surprisal import SurprisalParameters, SurprisalScorer
from core.autointerp.types import Made, Means, Need, Type
from core.errors import InvalidRequest, NotFound


class BestOfParameters(BaseModel):
    """Parameters of `best-of-k`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    explainer: str = Field(default="default", description="Which explainer makes the candidates.")
    explainer_parameters: dict[str, Any] = Field(
        default_factory=lambda: {"temperature": 1.0}, description="Its parameters; candidates differ in their seed."
    )
    scorer: str = Field(default="detection", description="Which scorer chooses.")
    scorer_parameters: dict[str, Any] = Field(default_factory=dict, description="Its parameters.")
    k: int = Field(default=5, ge=2, le=50, description="How many candidates.")
    seed: int = Field(default=0, description="Seed of the first candidate; each next one has the next.")


def explainer_type(name: str) -> Type[Explainer]:
    """The explainer of this name or alias.

    Raises:
        NotFound: There is none.
    """
    return _find(name, EXPLAINERS, EXPLAINER_ALIASES, "explainer")


def scorer_type(name: str) -> Type[Scorer]:
    """The scorer of this name or alias.

    Raises:
        NotFound: There is none.
    """
    return _find(name, SCORERS, SCORER_ALIASES, "scorer")


def _find(name: str, types: Mapping[str, Type[Made]], aliases: Mapping[str, str], kind: str) -> Type[Made]:
    found = types.get(aliases.get(name, name))
    if found is None:
        raise NotFound(f"there is no {kind} {name}", f"There are {', '.join(types)}.")
    return found


def _best_of(parameters: BestOfParameters, means: Means) -> Explainer:
    inner = explainer_type(parameters.explainer)
    if inner.name == "best-of-k":
        raise InvalidRequest("best-of-k can not choose among its own choices", "Name another explainer.")
    seeds = range(parameters.seed, parameters.seed + parameters.k)
    candidates = (inner.build({**parameters.explainer_parameters, "seed": seed}, means) for seed in seeds)
    scorer = scorer_type(parameters.scorer)
    if "explanation" not in scorer.needs:
        raise InvalidRequest(f"{scorer.name} scores features and can not choose an explanation")
    return BestOfExplainer(tuple(candidates), scorer.build(parameters.scorer_parameters, means))


_MODEL: Final[frozenset[Need]] = frozenset({"language_model"})
_LOGITS: Final[frozenset[Need]] = frozenset({"language_model", "top_logits"})
_CONTRAST: Final[frozenset[Need]] = frozenset({"language_model", "silent_examples"})
_EXPLAINED: Final[frozenset[Need]] = frozenset({"language_model", "explanation"})
_JUDGE: Final[frozenset[Need]] = frozenset({"language_model", "silent_examples", "explanation"})
_READER: Final[frozenset[Need]] = frozenset({"language_model", "logprobs", "silent_examples", "explanation"})
_STEERING: Final[frozenset[Need]] = frozenset({"language_model", "subject", "silent_examples", "explanation"})
_NEAR: Final[frozenset[Need]] = frozenset({"embeddings", "silent_examples", "explanation"})
_NEAR_EACH_OTHER: Final[frozenset[Need]] = frozenset({"embeddings", "silent_examples"})

EXPLAINERS: Final[Mapping[str, Type[Explainer]]] = {
    one.name: one
    for one in (
        Type(
            "default",
            "What the strongest tokens of marked examples have in common.",
            DefaultParameters,
            _MODEL,
            "one_call",
            lambda parameters, means: DefaultExplainer(means.language_model, parameters),
        ),
        Type(
            "default-cot",
            "The same, with steps of thought before the answer.",
            DefaultParameters,
            _MODEL,
            "one_call",
            lambda parameters, means: DefaultExplainer(means.language_model, parameters, reasoning=True),
        ),
        Type(
            "contrastive",
            "What marked examples have in common and examples where the feature is silent lack.",
            ContrastiveParameters,
            _CONTRAST,
            "one_call",
            lambda parameters, means: ContrastiveExplainer(means.language_model, parameters),
        ),
        Type(
            "single-token",
            "The pattern behind the strongest tokens, without their texts.",
            SingleTokenParameters,
            _MODEL,
            "one_call",
            lambda parameters, means: SingleTokenExplainer(means.language_model, parameters),
        ),
        Type(
            "np-max-act",
            "A label of a few words, by the strongest tokens or the theme of their texts.",
            MaxActivationParameters,
            _MODEL,
            "one_call",
            lambda parameters, means: MaxActivationExplainer(means.language_model, parameters),
        ),
        Type(
            "np-max-act-logits",
            "The same, also by the tokens that follow and those whose logits the feature raises.",
            MaxActivationParameters,
            _LOGITS,
            "one_call",
            lambda parameters, means: MaxActivationExplainer(means.language_model, parameters, with_logits=True),
        ),
        Type(
            "output-centric",
            "What the feature makes the model say, by the tokens whose logits it raises and lowers.",
            OutputCentricParameters,
            _LOGITS,
            "one_call",
            lambda parameters, means: OutputCentricExplainer(means.language_model, parameters),
        ),
        Type(
            "best-of-k",
            "Several explanations of another explainer, and the one that a scorer finds best on held-out examples.",
            BestOfParameters,
            _CONTRAST,
            "several_calls",
            _best_of,
        ),
    )
}
"""By name."""

SCORERS: Final[Mapping[str, Type[Scorer]]] = {
    one.name: one
    for one in (
        Type(
            "detection",
            "Can a language model tell from the explanation in which texts the feature fires?",
            ClassificationParameters,
            _JUDGE,
            "call_per_batch",
            lambda parameters, means: ClassificationScorer(means.language_model, "detection", parameters),
        ),
        Type(
            "fuzz",
            "Can it tell whether the right tokens are marked, among silent texts with random marks?",
            FuzzParameters,
            _JUDGE,
            "call_per_batch",
            lambda parameters, means: ClassificationScorer(means.language_model, "fuzz", parameters),
        ),
        Type(
            "fuzz-active",
            "Can it tell right marks from wrong ones in the same active texts?",
            FuzzParameters,
            _EXPLAINED,
            "call_per_batch",
            lambda parameters, means: ClassificationScorer(means.language_model, "fuzz-active", parameters),
        ),
        Type(
            "embedding",
            "Is the explanation's embedding nearer to texts where the feature fires than to others?",
            EmbeddingParameters,
            _NEAR,
            "embeddings",
            lambda parameters, means: EmbeddingScorer(means.embeddings, parameters, means.deadline),
        ),
        Type(
            "example-embedding",
            "Are the feature's texts nearer to each other than to others? Scores the feature.",
            ExampleEmbeddingParameters,
            _NEAR_EACH_OTHER,
            "embeddings",
            lambda parameters, means: ExampleEmbeddingScorer(means.embeddings, parameters, means.deadline),
        ),
        Type(
            "intruder",
            "Can a language model find the text that does not belong, without an explanation? Scores the feature.",
            IntruderParameters,
            _CONTRAST,
            "call_per_example",
            lambda parameters, means: IntruderScorer(means.language_model, parameters),
        ),
        Type(
            "simulation",
            "Do the activations that the explanation leads a language model to expect follow the true ones?",
            SimulationParameters,
            _EXPLAINED,
            "call_per_example",
            lambda parameters, means: SimulationScorer(means.language_model, parameters),
        ),
        Type(
            "surprisal",
            "Does the explanation make the feature's texts easier to foresee, and others not?",
            SurprisalParameters,
            _READER,
            "calls_per_example",
            lambda parameters, means: SurprisalScorer(means.language_model, parameters),
        ),
        Type(
            "intervention",
            "Can a language model tell from the explanation what the model writes when the feature is pushed?",
            InterventionParameters,
            _STEERING,
            "call_per_example",
            lambda parameters, means: InterventionScorer(
                means.language_model, means.steerable, parameters, means.deadline
            ),
        ),
        Type(
            "recall-alt",
            "Does a language model say of each text by itself, with a reason, whether the explanation fits?",
            RecallAltParameters,
            _EXPLAINED,
            "call_per_example",
            lambda parameters, means: RecallAltScorer(means.language_model, parameters),
        ),
    )
}
"""By name."""

EXPLAINER_ALIASES: Final[Mapping[str, str]] = {
    "DefaultExplainer": "default",
    "eleuther_acts_top20": "default",
    "ContrastiveExplainer": "contrastive",
    "SingleTokenExplainer": "single-token",
    "single_token": "single-token",
    "np_max-act": "np-max-act",
    "np_max-act-logits": "np-max-act-logits",
}
SCORER_ALIASES: Final[Mapping[str, str]] = {
    "DetectionScorer": "detection",
    "RecallScorer": "detection",
    "recall": "detection",
    "eleuther_recall": "detection",
    "FuzzingScorer": "fuzz",
    "eleuther_fuzz": "fuzz",
    "EmbeddingScorer": "embedding",
    "eleuther_embedding": "embedding",
    "ExampleEmbeddingScorer": "example-embedding",
    "example_embedding": "example-embedding",
    "IntruderScorer": "intruder",
    "OpenAISimulator": "simulation",
    "simulator": "simulation",
    "SurprisalScorer": "surprisal",
    "SurprisalInterventionScorer": "intervention",
    "recall_alt": "recall-alt",
}
