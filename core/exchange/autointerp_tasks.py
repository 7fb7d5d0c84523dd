"""The peer's three routes: a body as a task, with what the peer asks where the body does not say.

Scores there count whatever share of the texts was judged, so no share of failures is too large here.
"""

from typing import Any, Final

from pydantic import SecretStr

from core.autointerp.description import AutointerpDescription
from core.autointerp.explainers.default import NEURONPEDIA
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.tasks import ExplainTask, ModelChoice, Payer, ScoreTask
from core.errors import NotFound
from core.exchange.autointerp import Asking, asking_of, record_to_explain, record_to_score
from core.wire.autointerp import (
    ExplainDefaultRequest,
    ProviderChoice,
    ScoreEmbeddingRequest,
    ScoreFuzzDetectionRequest,
)

OWNER: Final = "requests"
"""Whose turn requests wait for, together, where jobs wait too."""


def model_choice(model: str, provider: ProviderChoice, key: SecretStr | None) -> ModelChoice:
    """Which language model is asked; without a key by the cluster's own."""
    chosen = None if key is None else ProviderKey(key.get_secret_value())
    return ModelChoice(model, provider.provider, provider.base_url, chosen)


def explain_default(
    request: ExplainDefaultRequest, header_key: SecretStr | None, described: AutointerpDescription
) -> ExplainTask:
    """The task of `/v1/explain/default`.

    Raises:
        InvalidRequest: As `asking_of` and `record_to_explain`.
    """
    asking = asking_of(request, header_key, described)
    parameters = _asked(asking) | {"threshold": NEURONPEDIA.threshold, "show_activations": asking.show_activations}
    choice = model_choice(asking.model, request, asking.key)
    return ExplainTask("default", parameters, record_to_explain(request), choice, Payer(OWNER))


def score_fuzz_detection(
    request: ScoreFuzzDetectionRequest, header_key: SecretStr | None, described: AutointerpDescription
) -> ScoreTask:
    """The task of `/v1/score/fuzz-detection`.

    Raises:
        InvalidRequest: As `asking_of` and `record_to_score`.
    """
    asking = asking_of(request, header_key, described)
    parameters = _asked(asking) | {"max_failure_rate": 1.0}
    choice = model_choice(asking.model, request, asking.key)
    record = record_to_score(request)
    return ScoreTask(request.type.lower(), parameters, record, request.explanation, choice, Payer(OWNER))


def score_embedding(request: ScoreEmbeddingRequest, embedding_model: str | None) -> ScoreTask:
    """The task of `/v1/score/embedding`.

    Args:
        request: The body.
        embedding_model: The one that is served; None: none is.

    Raises:
        InvalidRequest: As `record_to_score`.
        NotFound: Another embedding model is asked for than is served.
    """
    if request.embedding_model not in (None, embedding_model):
        served = f"{embedding_model} is." if embedding_model else "None is."
        raise NotFound(f"The embedding model '{request.embedding_model}' is not served here.", served)
    return ScoreTask("embedding", {}, record_to_score(request), request.explanation, payer=Payer(OWNER))


def _asked(asking: Asking) -> dict[str, Any]:
    return {
        "prompt_style": asking.prompt_style,
        "temperature": asking.temperature,
        "max_tokens": asking.max_tokens,
        "seed": asking.seed,
    }
