"""The routes that came before `/v1`, as adapters over the same questions. They report BOS, and zero there."""

from typing import Any

import numpy as np

from core.exchange.rankings import ask_top_features, ranked
from core.exchange.served import Exchange, ServedModel, check_feature
from core.questions import FeatureAnswer, FeatureQuestion, NeighboursAnswer, NeighboursLookup
from core.wire.seed import (
    ActivationsAllRequest,
    ActivationsAllResponse,
    ActivationsTestRequest,
    ActivationsTestResponse,
    SeedActivation,
    SeedNeighbour,
    SeedTopActivation,
    TopKByDecoderCosineSimilarityRequest,
    TopKByDecoderCosineSimilarityResponse,
)


def activations_test(request: ActivationsTestRequest, model: ServedModel) -> Exchange[ActivationsTestResponse]:
    """One feature over a text."""
    target = request.target()
    source = model.description.source(target.source)
    check_feature(source, target.index)
    prompt = model.tokenizer.bos_prompt(request.text, model.limit)

    def reply(answers: list[Any]) -> ActivationsTestResponse:
        answer: FeatureAnswer = answers[0]
        top = int(np.argmax(answer.values))
        return ActivationsTestResponse(
            activations=SeedActivation(
                index=target.index,
                layer=source.id,
                max_value=float(answer.values[top]),
                max_value_index=top,
                values=answer.values.tolist(),
            ),
            tokens=list(prompt.strings),
        )

    silent = model.bos_positions(prompt.ids)
    return Exchange([FeatureQuestion(prompt.ids, source.id, target.index, silent)], reply)


def activations_all(request: ActivationsAllRequest, model: ServedModel) -> Exchange[ActivationsAllResponse]:
    """The strongest features of a source set on a text."""
    prompt, question = ask_top_features(request.text, request.as_top_features(), model, batch=False)

    def reply(answers: list[Any]) -> ActivationsAllResponse:
        return ActivationsAllResponse(
            activations=[
                SeedTopActivation(
                    index=feature.index,
                    layer=feature.source,
                    max_value=feature.max_value,
                    max_value_index=feature.max_value_index,
                    values=feature.values,
                    sum_values=feature.sum_values or 0.0,
                    dfa_values=feature.dfa_values,
                    dfa_target_index=feature.dfa_target_index,
                    dfa_max_value=feature.dfa_max_value,
                )
                for feature in ranked(question, answers[0])
            ],
            tokens=list(prompt.strings),
        )

    return Exchange([question], reply)


def top_k_by_decoder_cosine_similarity(
    request: TopKByDecoderCosineSimilarityRequest, model: ServedModel
) -> NeighboursLookup:
    """The features nearest to one feature of the same source."""
    request.check()
    source = model.description.source(request.sae_id)
    check_feature(source, request.feature_id)
    return NeighboursLookup(source.id, request.k, index=request.feature_id)


def top_k_reply(
    request: TopKByDecoderCosineSimilarityRequest, answer: NeighboursAnswer
) -> TopKByDecoderCosineSimilarityResponse:
    """The features in wire form, nearest first."""
    return TopKByDecoderCosineSimilarityResponse(
        feature_id=request.feature_id,
        top_k_features=[
            SeedNeighbour(cosine_similarity=cosine, index=index)
            for index, cosine in zip(answer.indexes, answer.cosines, strict=True)
        ],
    )
