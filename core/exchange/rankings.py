"""`all` and `all-batch`: the strongest features of a source set on prompts."""

from typing import Any

from core.errors import InvalidRequest
from core.exchange.served import Exchange, ServedModel
from core.prompts import Prompt
from core.questions import TopFeaturesAnswer, TopFeaturesQuestion
from core.wire.rankings import (
    ActivationAllBatchRequest,
    ActivationAllBatchResponse,
    ActivationAllBatchResult,
    ActivationAllFeature,
    ActivationAllRequest,
    ActivationAllResponse,
    TopFeatures,
)


def all_features(request: ActivationAllRequest, model: ServedModel) -> Exchange[ActivationAllResponse]:
    """One prompt."""
    prompt, question = ask_top_features(request.prompt, request, model, batch=False)

    def reply(answers: list[Any]) -> ActivationAllResponse:
        return ActivationAllResponse(activations=ranked(question, answers[0]), tokens=list(prompt.strings))

    return Exchange([question], reply)


def all_features_batch(request: ActivationAllBatchRequest, model: ServedModel) -> Exchange[ActivationAllBatchResponse]:
    """Several prompts."""
    request.check_batch(model.description.limits.batch_limit)
    asked = [ask_top_features(prompt, request, model, batch=True) for prompt in request.prompts]

    def reply(answers: list[Any]) -> ActivationAllBatchResponse:
        return ActivationAllBatchResponse(
            results=[
                ActivationAllBatchResult(activations=ranked(question, answer), tokens=list(prompt.strings))
                for (prompt, question), answer in zip(asked, answers, strict=True)
            ]
        )

    return Exchange([question for _, question in asked], reply)


def ask_top_features(
    text: str, request: TopFeatures, model: ServedModel, *, batch: bool
) -> tuple[Prompt, TopFeaturesQuestion]:
    """Tokenises the prompt and checks everything that the request says about the model."""
    description = model.description
    served = description.source_set(request.source_set)
    # A repeated source would be ranked against itself.
    selected = [description.source(source) for source in dict.fromkeys(request.selected_sources)] or list(served)
    wanted = request.wanted_features()
    if wanted is not None and wanted[-1] >= (widest := max(source.d_sae for source in selected)):
        raise InvalidRequest(
            f"featureFilter names feature {wanted[-1]}, but no selected source has more than {widest} features",
            f"Use indexes from 0 to {widest - 1}.",
        )
    prompt = model.tokenizer.bos_prompt(text, model.batch_limit if batch else model.limit)
    request.check_sort_indexes(len(prompt))
    return prompt, TopFeaturesQuestion(
        tokens=prompt.ids,
        sources=tuple(source.id for source in selected),
        k=request.k(description.limits.max_num_results),
        sort_positions=tuple(request.sort_by_token_indexes),
        silent_positions=(0,) if request.ignore_bos and prompt.has_bos else (),
        feature_filter=wanted,
        dfa_sources=frozenset(source.id for source in selected if source.dfa),
    )


def ranked(question: TopFeaturesQuestion, answer: TopFeaturesAnswer) -> list[ActivationAllFeature]:
    """The answer's features in wire form. The sum is 0 unless it is what they were ranked by, as the peer has it."""
    maxima = answer.values.max(axis=1).tolist()
    places = answer.values.argmax(axis=1).tolist()
    sums = answer.keys.tolist() if question.sort_positions else [0.0] * len(maxima)
    indexes, rows = answer.indexes.tolist(), answer.values.tolist()
    features: list[ActivationAllFeature] = []
    for number, source in enumerate(answer.sources):
        dfa = answer.attributions.get(number)
        features.append(
            ActivationAllFeature(
                source=source,
                index=indexes[number],
                values=rows[number],
                sum_values=sums[number],
                max_value=maxima[number],
                max_value_index=places[number],
                dfa_values=None if dfa is None else dfa.values.tolist(),
                dfa_target_index=None if dfa is None else dfa.target,
                dfa_max_value=None if dfa is None else float(dfa.values.max()),
            )
        )
    return features
