"""`source`, `topk-by-token` and `similarity-matrix-pred`: one SAE, position by position."""

from typing import Any

from core.exchange.served import Exchange, ServedModel
from core.prompts import Prompt
from core.questions import (
    ActiveFeaturesAnswer,
    ActiveFeaturesQuestion,
    PredictionSimilarityQuestion,
    TopPerTokenAnswer,
    TopPerTokenQuestion,
)
from core.wire.features import SimilarityMatrixRequest, SimilarityMatrixResponse
from core.wire.positions import (
    ActivationSourceRequest,
    ActivationSourceResponse,
    ActivationSourceResult,
    ActivationTopkByTokenBatchRequest,
    ActivationTopkByTokenBatchResponse,
    ActivationTopkByTokenBatchResult,
    ActivationTopkByTokenFeature,
    ActivationTopkByTokenRequest,
    ActivationTopkByTokenResponse,
    ActivationTopkByTokenResult,
    TopKByToken,
)

_SOURCE_DECIMALS = 3


def active_features(request: ActivationSourceRequest, model: ServedModel) -> Exchange[ActivationSourceResponse]:
    """Every active feature of one source on several prompts. The BOS position is left out, values have 3 decimals."""
    request.check_batch(model.description.limits.batch_limit)
    source = model.description.source(request.source)
    prompts = [model.tokenizer.bos_prompt(text, model.batch_limit) for text in request.prompts]

    def reply(answers: list[Any]) -> ActivationSourceResponse:
        return ActivationSourceResponse(
            results=[
                ActivationSourceResult(tokens=list(prompt.strings), active_features=_by_feature(answer))
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        )

    return Exchange([ActiveFeaturesQuestion(p.ids, source.id, int(p.has_bos)) for p in prompts], reply)


def top_k_by_token(
    request: ActivationTopkByTokenRequest, model: ServedModel
) -> Exchange[ActivationTopkByTokenResponse]:
    """One prompt."""
    prompt, question = _ask(request.prompt, request, model, batch=False)

    def reply(answers: list[Any]) -> ActivationTopkByTokenResponse:
        result = _by_token(prompt, answers[0], request.ignore_bos)
        return ActivationTopkByTokenResponse(results=result.results, tokens=result.tokens)

    return Exchange([question], reply)


def top_k_by_token_batch(
    request: ActivationTopkByTokenBatchRequest, model: ServedModel
) -> Exchange[ActivationTopkByTokenBatchResponse]:
    """Several prompts."""
    request.check_batch(model.description.limits.batch_limit)
    asked = [_ask(text, request, model, batch=True) for text in request.prompts]

    def reply(answers: list[Any]) -> ActivationTopkByTokenBatchResponse:
        return ActivationTopkByTokenBatchResponse(
            results=[
                _by_token(prompt, answer, request.ignore_bos)
                for (prompt, _), answer in zip(asked, answers, strict=True)
            ]
        )

    return Exchange([question for _, question in asked], reply)


def prediction_similarity(request: SimilarityMatrixRequest, model: ServedModel) -> Exchange[SimilarityMatrixResponse]:
    """Similarity of a temporal SAE's predictions. The first token is left out of the matrix and of the tokens."""
    source = model.description.source(request.source_id)
    prompt = model.tokenizer.vector_prompt(request.text, model.limit)

    def reply(answers: list[Any]) -> SimilarityMatrixResponse:
        return SimilarityMatrixResponse(similarity_matrix=answers[0].matrix.tolist(), tokens=list(prompt.strings[1:]))

    return Exchange([PredictionSimilarityQuestion(prompt.ids, source.id)], reply)


def _ask(text: str, request: TopKByToken, model: ServedModel, *, batch: bool) -> tuple[Prompt, TopPerTokenQuestion]:
    source = model.description.source(request.source)
    prompt = model.tokenizer.bos_prompt(text, model.batch_limit if batch else model.limit)
    return prompt, TopPerTokenQuestion(prompt.ids, source.id, request.k(source.d_sae))


def _by_token(prompt: Prompt, answer: TopPerTokenAnswer, ignore_bos: bool) -> ActivationTopkByTokenBatchResult:
    """Positions count in the whole prompt, so without BOS they start at 1."""
    first = int(ignore_bos and prompt.has_bos)
    indexes, values = answer.indexes.tolist(), answer.values.tolist()
    results = [
        ActivationTopkByTokenResult(
            token_position=place,
            token=prompt.strings[place],
            is_special=prompt.is_special[place],
            top_features=[
                ActivationTopkByTokenFeature(feature_index=index, activation_value=value)
                for index, value in zip(indexes[place], values[place], strict=True)
            ],
        )
        for place in range(first, len(prompt))
    ]
    return ActivationTopkByTokenBatchResult(results=results, tokens=list(prompt.strings[first:]))


def _by_feature(answer: ActiveFeaturesAnswer) -> dict[str, list[tuple[int, float]]]:
    """Features in order of first appearance, their positions ascending."""
    features: dict[str, list[tuple[int, float]]] = {}
    entries = zip(answer.positions.tolist(), answer.indexes.tolist(), answer.values.tolist(), strict=True)
    for position, index, value in entries:
        features.setdefault(str(index), []).append((position, round(value, _SOURCE_DECIMALS)))
    return features
