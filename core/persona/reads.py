"""A caller's own directions over a text: which question each of them is, and how answers become the reply.

The text is cut into messages beforehand (`core.chat.message_partition`, or prompt and continuation), the written one
last. Everything else is the Runner's `DirectionQuestion`: pooled and projected where the activations are.

Unsteered only: under steering the generating engine would have to pool each read's own spans while it writes.
"""

from collections.abc import Sequence

from core.engine.shape import ModelShape
from core.errors import InvalidRequest
from core.questions import DirectionAnswer, DirectionQuestion
from core.steering.specification import parse_hook
from core.wire.vector_reads import VectorRead, VectorReadResult, check_reads

Spans = tuple[tuple[int, int], ...]


def read_questions(
    reads: Sequence[VectorRead], shape: ModelShape, tokens: tuple[int, ...], bounds: Spans
) -> list[DirectionQuestion]:
    """One question per read, in order.

    Args:
        reads: What the request asks for.
        shape: The model's sizes.
        tokens: The whole text.
        bounds: `(start, end)` of each message; the last one is what was written.

    Raises:
        InvalidRequest: A read is wrong in itself or does not fit the model.
    """
    check_fit(reads, shape)
    return [
        DirectionQuestion(
            tokens=tokens,
            hook_name=parse_hook(read.hook).name,
            spans=_spans(read, bounds),
            direction=tuple(read.direction),
            pooling=read.pooling,
            centre=None if read.centre is None else tuple(read.centre),
            normalize=read.normalize == "l2",
        )
        for read in reads
    ]


def read_results(reads: Sequence[VectorRead], answers: Sequence[DirectionAnswer]) -> list[VectorReadResult]:
    """The reply's part, in the order of the request."""
    return [
        VectorReadResult(name=read.name, values=answer.values.tolist())
        for read, answer in zip(reads, answers, strict=True)
    ]


def check_fit(reads: Sequence[VectorRead], shape: ModelShape) -> None:
    """Refuses reads that are wrong in themselves or do not fit the model.

    Raises:
        InvalidRequest: One is or does.
    """
    check_reads(list(reads))
    for read in reads:
        place = parse_hook(read.hook)
        if place.layer >= shape.n_layers:
            raise InvalidRequest(f"Invalid layer: {place.layer}. Must be in [0, {shape.n_layers}).")
        width = shape.d_heads if place.point == "attn.hook_z" else shape.d_model
        if len(read.direction) != width:
            raise InvalidRequest(
                f"The direction of '{read.name}' has {len(read.direction)} numbers but {place.name} has width {width}.",
                "Send a vector of the hook point's width.",
            )


def _spans(read: VectorRead, bounds: Spans) -> Spans:
    if read.over == "message":
        return bounds
    written, end = bounds[-1]
    return ((0, written if read.over == "prompt" else end),)
