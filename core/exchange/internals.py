"""`raw` and `attention`: the model itself, no SAE involved."""

from typing import Any

from core.exchange.served import Exchange, ServedModel
from core.questions import AttentionAnswer, AttentionQuestion, ResidualAnswer, ResidualQuestion
from core.wire.internals import (
    ActivationAttentionRequest,
    ActivationAttentionResponse,
    ActivationRawLayer,
    ActivationRawPromptResult,
    ActivationRawRequest,
    ActivationRawResponse,
)

_DECIMALS = 4
RAW_BATCH_LIMIT = 16


def raw(request: ActivationRawRequest, model: ServedModel) -> Exchange[ActivationRawResponse]:
    """Residual streams at each prompt's last token; rounded where the model computes in half precision."""
    request.check(max(RAW_BATCH_LIMIT, model.description.limits.batch_limit))
    layers = request.wanted_layers(model.description.shape.n_layers)
    prompts = [model.tokenizer.bos_prompt(text, model.limit) for text in request.prompts]

    def reply(answers: list[Any]) -> ActivationRawResponse:
        first: ResidualAnswer = answers[0]
        return ActivationRawResponse(
            hook_point=request.hook_point,
            type=request.type,
            dtype=first.dtype,
            device=first.device,
            results=[
                ActivationRawPromptResult(
                    token_strings=list(prompt.strings),
                    token_ids=list(prompt.ids),
                    activations=_layers(answer, len(prompt) - 1),
                )
                for prompt, answer in zip(prompts, answers, strict=True)
            ],
        )

    return Exchange([ResidualQuestion(prompt.ids, layers) for prompt in prompts], reply)


def attention(request: ActivationAttentionRequest, model: ServedModel) -> Exchange[ActivationAttentionResponse]:
    """The largest entries of one head's attention pattern."""
    shape = model.description.shape
    request.check(shape.n_layers, shape.n_heads)
    prompt = model.tokenizer.bos_prompt(request.prompt, model.limit)
    length = len(prompt)

    def reply(answers: list[Any]) -> ActivationAttentionResponse:
        answer: AttentionAnswer = answers[0]
        return ActivationAttentionResponse(
            seq_len=length,
            attention_indices=(answer.queries * length + answer.keys).tolist(),
            attention_values=[round(value, _DECIMALS) for value in answer.values.tolist()],
            max_activation=round(answer.largest, _DECIMALS),
            tokens=list(prompt.strings),
        )

    return Exchange([AttentionQuestion(prompt.ids, request.layer, request.head)], reply)


def _layers(answer: ResidualAnswer, position: int) -> list[ActivationRawLayer]:
    rows = answer.values.astype(float)
    if answer.dtype != "float32":
        rows = rows.round(_DECIMALS)
    return [
        ActivationRawLayer(layer=layer, token_indices=[position], values=[row])
        for layer, row in zip(answer.layers, rows.tolist(), strict=True)
    ]
