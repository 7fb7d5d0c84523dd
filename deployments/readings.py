"""What is measured of a text once it is written: the assistant axis of chats, and directions that the request names."""

import asyncio
import dataclasses
import logging
from typing import Any

from core.deadline import Deadline
from core.errors import DeadlineExceeded, InvalidRequest, RayscopeError
from core.exchange.assistant_axis import axis_questions, axis_reply
from core.exchange.steering_chat import ChatComposer
from core.exchange.writing import Writing
from core.generation.requests import Continuation, MeansRequest
from core.persona.monitor import Watched
from core.persona.reads import read_questions, read_results
from core.questions import DirectionQuestion, Floats, MessageMeansAnswer
from core.steering.specification import parse_hook
from core.wire.steering import NPSteerType, SteerVectorReads
from deployments.client import ModelClient

_LOG = logging.getLogger("ray.serve")


async def add_readings(client: ModelClient, writing: Writing[Any], deadline: Deadline) -> None:
    """Reads a request's texts again and gives its composer what the last response shows of that."""
    try:
        await _add_axis(client, writing, deadline)
    except DeadlineExceeded:
        raise
    except RayscopeError as error:  # the text is written by then, and worth answering without its axis
        _LOG.warning("the assistant axis of a chat was left out: %s", error)
    if not writing.reads:
        return
    asked: list[DirectionQuestion] = []
    for index in range(len(writing.continuations)):
        tokens, spans = writing.composer.messages_of(index)
        asked += read_questions(writing.reads, client.description.shape, tokens, spans)
    answers = await client.ask(asked, deadline)
    n_reads = len(writing.reads)
    writing.composer.vector_reads = [
        SteerVectorReads(type=kind, reads=read_results(writing.reads, answers[at * n_reads : (at + 1) * n_reads]))
        for at, kind in enumerate(writing.composer.types)
    ]


async def _add_axis(client: ModelClient, writing: Writing[Any], deadline: Deadline) -> None:
    """Gives a written chat its `assistantAxis`, where the request asked for it and the model has directions.

    `pcValues` are read from the plain model, `pcValuesPostCap` from the model as it was steered.
    """
    composer = writing.composer
    if not isinstance(composer, ChatComposer) or composer.persona is None:
        return
    place = parse_hook(composer.persona.primary.hook_name)
    texts = dict(zip(composer.types, composer.texts, strict=True))
    asked = axis_questions(client.served, composer.persona, composer.messages, texts)
    written = dict(zip(composer.types, writing.continuations, strict=True))

    async def means(continuation: Continuation, read: Watched) -> Floats:
        # The closed conversation's own special tokens: its template may write the prompt otherwise than the open one.
        special = client.served.tokenizer.special_positions(read.tokens[: len(continuation.prompt)])
        asked_as = dataclasses.replace(continuation, special_positions=special)
        return await client.read_means(MeansRequest(asked_as, read.tokens, place, read.spans), deadline)

    async def plain(kind: NPSteerType) -> MessageMeansAnswer:
        unsteered = dataclasses.replace(written[kind], steering=None)
        return MessageMeansAnswer(await means(unsteered, asked.watched[kind]))

    if client.description.runners:
        answers = await client.ask(asked.questions, deadline)
    else:
        answers = await asyncio.gather(*(plain(kind) for kind in asked.watched))
    post_cap: dict[NPSteerType, Floats] = {}
    for kind, read in asked.watched.items():
        if written[kind].steering is not None:
            try:
                post_cap[kind] = await means(written[kind], read)
            except InvalidRequest as error:  # how it was steered can not be repeated over a whole text
                _LOG.info("pcValuesPostCap was left out: %s", error)
    composer.assistant_axis = axis_reply(asked, answers, post_cap)
