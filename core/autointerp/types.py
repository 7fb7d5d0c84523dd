"""What a type of explainer or scorer is to the registry: a name, parameters, needs, and how to make one.

Not here: which types there are (`core.autointerp.registry`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from core.autointerp.embedder import Embedder
from core.autointerp.explainers.explainer import Explainer
from core.autointerp.language_model import LanguageModel
from core.autointerp.scorers.scorer import Scorer
from core.autointerp.subject import Subject
from core.deadline import Deadline
from core.errors import InvalidRequest, Unavailable

Need = Literal["language_model", "logprobs", "embeddings", "subject", "top_logits", "silent_examples", "explanation"]
Cost = Literal["embeddings", "one_call", "several_calls", "call_per_batch", "call_per_example", "calls_per_example"]
Made = TypeVar("Made", Explainer, Scorer)


@dataclass(frozen=True, slots=True)
class Means:
    """What explainers and scorers may use.

    Attributes:
        deadline: When the result is no longer wanted; the language model has its own.
        model: Answers, if there is one.
        embedder: Embeds, if there is one.
        subject: The model that has the features, if there is one to steer.
    """

    deadline: Deadline
    model: LanguageModel | None = None
    embedder: Embedder | None = None
    subject: Subject | None = None

    @property
    def language_model(self) -> LanguageModel:
        """The language model.

        Raises:
            Unavailable: There is none.
        """
        if self.model is None:
            raise Unavailable("no language model is at hand to explain or judge", "Name one in the request.")
        return self.model

    @property
    def embeddings(self) -> Embedder:
        """The embedder.

        Raises:
            Unavailable: There is none.
        """
        if self.embedder is None:
            raise Unavailable("no embedding model is served here", "Deploy one, or use a scorer that asks a model.")
        return self.embedder

    @property
    def steerable(self) -> Subject:
        """The model that has the features.

        Raises:
            Unavailable: There is none.
        """
        if self.subject is None:
            raise Unavailable(
                "no model that could be steered is at hand", "Serve the feature's model, or use another scorer."
            )
        return self.subject


@dataclass(frozen=True, slots=True)
class Type(Generic[Made]):
    """An explainer or scorer that can be asked for.

    Attributes:
        name: Its name.
        summary: What it does, in a sentence.
        parameters: The model of its parameters; all have defaults.
        needs: What it cannot do without: means (`language_model`, one that has `logprobs` of prompts, `embeddings`,
            a `subject` to steer), what a record need not have (`top_logits`, `silent_examples`), or an `explanation`,
            which a scorer of features does not read.
        cost: What a feature costs by it.
        make: Makes it from parameters of that model.
    """

    name: str
    summary: str
    parameters: type[BaseModel]
    needs: frozenset[Need]
    cost: Cost
    make: Callable[[Any, Means], Made]

    @property
    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of its parameters, defaults included."""
        return self.parameters.model_json_schema()

    def build(self, parameters: Mapping[str, Any], means: Means) -> Made:
        """It, ready to be used.

        Args:
            parameters: By name; what is left out has its default.
            means: What it may use.

        Raises:
            InvalidRequest: A parameter is unknown or out of range.
            Unavailable: It needs what is not at hand.
        """
        try:
            checked = self.parameters.model_validate(dict(parameters))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "parameters"
            known = ", ".join(self.parameters.model_fields)
            raise InvalidRequest(
                f"{place} of {self.name}: {first['msg']}", f"It takes {known}." if known else None
            ) from None
        return self.make(checked, means)
