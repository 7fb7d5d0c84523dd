"""`/v1/util/*`: what SAE weights alone can tell."""

from typing import Any

from core.errors import InvalidRequest, NotFound
from core.exchange.served import ServedModel, check_feature
from core.questions import EncoderVectorAnswer, EncoderVectorLookup, NeighboursAnswer, NeighboursLookup
from core.wire.features import (
    NPFeature,
    UtilSaeTopkByDecoderCossimFeature,
    UtilSaeTopkByDecoderCossimRequest,
    UtilSaeTopkByDecoderCossimResponse,
    UtilSaeVectorRequest,
    UtilSaeVectorResponse,
)


def sae_vector(request: UtilSaeVectorRequest, model: ServedModel) -> EncoderVectorLookup:
    """The encoder column that the peer answers with."""
    source = model.description.source(request.source)
    check_feature(source, request.index)
    return EncoderVectorLookup(source.id, request.index)


def sae_vector_reply(answer: EncoderVectorAnswer) -> UtilSaeVectorResponse:
    """The column in wire form."""
    return UtilSaeVectorResponse(vector=answer.vector.tolist(), hook_name=answer.hook_name)


def neighbours(request: UtilSaeTopkByDecoderCossimRequest, model: ServedModel) -> NeighboursLookup:
    """Features with near decoder rows. The query row is read from the request's `source`, as the peer reads it."""
    query = request.query()
    try:
        source = model.description.source(request.source)
    except NotFound as error:
        raise NotFound(f"Invalid SAE ID or type: {request.source}", error.hint) from None
    if isinstance(query, NPFeature):
        check_feature(source, query.index)
        return NeighboursLookup(source.id, request.k(), index=query.index)
    if len(query) != source.d_in and "transcoder" not in source.architecture:
        raise InvalidRequest(
            f"The vector has {len(query)} numbers but the decoder of {source.id} has width {source.d_in}.",
            "Send a vector of the decoder's width.",
        )
    return NeighboursLookup(source.id, request.k(), vector=query)


def neighbours_reply(
    request: UtilSaeTopkByDecoderCossimRequest, answer: NeighboursAnswer
) -> UtilSaeTopkByDecoderCossimResponse:
    """The features in wire form, nearest first."""
    near: list[Any] = [
        UtilSaeTopkByDecoderCossimFeature(
            feature=NPFeature(model=request.model, source=request.source, index=index), cosine_similarity=cosine
        )
        for index, cosine in zip(answer.indexes, answer.cosines, strict=True)
    ]
    return UtilSaeTopkByDecoderCossimResponse(feature=request.feature, topk_decoder_cossim_features=near)
