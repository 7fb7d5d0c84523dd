"""`single` and `single-batch`: one feature, or one direction, over prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.exchange.served import Exchange, ServedModel, check_feature
from core.prompts import Prompt
from core.questions import FeatureAnswer, FeatureQuestion, VectorQuestion
from core.wire.activations import (
    ActivationSingleBatchRequest,
    ActivationSingleBatchResponse,
    ActivationSingleBatchResult,
    ActivationSingleRequest,
    ActivationSingleResponse,
    ActivationValues,
    FeatureTarget,
    VectorTarget,
)

_Asked = tuple[Prompt, FeatureQuestion | VectorQuestion]


def single(request: ActivationSingleRequest, model: ServedModel) -> Exchange[ActivationSingleResponse]:
    """One prompt."""
    asked = _ask(request.prompt, request.target(), model, batch=False)

    def reply(answers: list[Any]) -> ActivationSingleResponse:
        result = _result(asked, answers[0])
        return ActivationSingleResponse(
            activation=result.activation, tokens=result.tokens, tokens_is_special=result.tokens_is_special
        )

    return Exchange([asked[1]], reply)


def single_batch(request: ActivationSingleBatchRequest, model: ServedModel) -> Exchange[ActivationSingleBatchResponse]:
    """Several prompts."""
    request.check_batch(model.description.limits.batch_limit)
    target = request.target()
    asked = [_ask(prompt, target, model, batch=True) for prompt in request.prompts]

    def reply(answers: list[Any]) -> ActivationSingleBatchResponse:
        return ActivationSingleBatchResponse(
            results=[_result(one, answer) for one, answer in zip(asked, answers, strict=True)]
        )

    return Exchange([question for _, question in asked], reply)


def _ask(text: str, target: FeatureTarget | VectorTarget, model: ServedModel, *, batch: bool) -> _Asked:
    limit = model.batch_limit if batch else model.limit
    if isinstance(target, VectorTarget):
        prompt = model.tokenizer.vector_prompt(text, limit)
        return prompt, VectorQuestion(prompt.ids, target.hook, target.vector)
    source = model.description.source(target.source)
    check_feature(source, target.index)
    prompt = model.tokenizer.bos_prompt(text, limit)
    silent = model.bos_positions(prompt.ids)
    # A prompt of BOS alone keeps it: there would be nothing left to report.
    drop_first = bool(silent) and len(prompt) > 1
    return prompt, FeatureQuestion(prompt.ids, source.id, target.index, silent, drop_first, source.dfa)


def _result(asked: _Asked, answer: FeatureAnswer) -> ActivationSingleBatchResult:
    prompt, question = asked
    start = int(isinstance(question, FeatureQuestion) and question.drop_first)
    return ActivationSingleBatchResult(
        activation=activation_values(answer),
        tokens=list(prompt.strings[start:]),
        tokens_is_special=list(prompt.is_special[start:]),
    )


def activation_values(answer: FeatureAnswer) -> ActivationValues:
    """Values with their first maximum, and DFA where there is one."""
    top = int(np.argmax(answer.values))
    dfa = answer.attribution
    return ActivationValues(
        values=_floats(answer.values),
        max_value=float(answer.values[top]),
        max_value_index=top,
        dfa_values=None if dfa is None else _floats(dfa.values),
        dfa_max_value=None if dfa is None else float(dfa.values.max()),
        dfa_target_index=None if dfa is None else dfa.target,
    )


def _floats(values: Any) -> list[float]:
    numbers: Sequence[float] = values.tolist()
    return list(numbers)
