"""What crosses the border to vLLM: our requests in its words, its outputs and errors in ours."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from core.errors import InvalidRequest, RayscopeError, Unavailable
from core.generation.requests import Continuation, Growth, Sampling, TokenScore
from core.steerer.admission import Admitted
from core.steerer.request import Reading, pack
from core.steerer.salt import cache_salt

DEAD: Final = "The engine does not run any more"
RESTART_HINT: Final = "The replica is being replaced; try again in a minute."


def prompt_of(continuation: Continuation, admitted: Admitted) -> dict[str, Any]:
    """The prompt of an admitted continuation, with its cache salt."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(continuation.prompt)}
    salt = cache_salt(admitted.program, len(continuation.prompt))
    return prompt if salt is None else prompt | {"cache_salt": salt}


def sampling_of(sampling: Sampling, admitted: Admitted, reading: Reading | None = None) -> Any:
    """`SamplingParams`: how tokens are chosen, and what our workers must know.

    Raises:
        InvalidRequest: vLLM can not sample so.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    try:
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            top_p=sampling.top_p,
            logprobs=sampling.n_logprobs or None,
            stop_token_ids=sorted(sampling.stop_ids),
            ignore_eos=True,  # what ends a text is in `stop_ids`
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            # Positions whose keys and values are cached are not run, so they could not be read.
            skip_reading_prefix_cache=None if reading is None else True,
            extra_args=pack(admitted.program, reading),
        )
    except ValueError as error:
        raise InvalidRequest(f"The engine can not sample so: {error}") from error


def growth_of(index: int, output: Any, n_scores: int) -> Growth:
    """What an output of one sequence adds.

    Raises:
        Unavailable: The engine gave the sequence up.
    """
    if output.finish_reason not in (None, "stop", "length"):
        raise Unavailable(f"The engine gave the text up: {output.finish_reason}", RESTART_HINT)
    tokens = tuple(output.token_ids)
    ranked = zip(tokens, output.logprobs, strict=True) if n_scores else ()
    scores = tuple(_score(token, entries, n_scores) for token, entries in ranked)
    return Growth(index, tokens, scores, output.finish_reason)


def _score(token: int, entries: Mapping[int, Any], n_scores: int) -> TokenScore:
    # Listed are the likeliest tokens and, besides them, the chosen one.
    likeliest = sorted((entry.rank, id_, entry.logprob) for id_, entry in entries.items() if entry.rank <= n_scores)
    return TokenScore(entries[token].logprob, tuple((id_, logprob) for _, id_, logprob in likeliest))


def merge(batch: Sequence[Growth | Exception]) -> list[Growth]:
    """One growth per continuation, in their order.

    Raises:
        Exception: The first of the batch.
    """
    merged: dict[int, Growth] = {}
    for growth in batch:
        if isinstance(growth, Exception):
            raise growth
        before = merged.get(growth.index, Growth(growth.index, ()))
        merged[growth.index] = Growth(
            growth.index, before.tokens + growth.tokens, before.scores + growth.scores, growth.finish
        )
    return [merged[index] for index in sorted(merged)]


def translate(error: Exception) -> RayscopeError:
    """One of our errors for one of vLLM's."""
    from vllm.exceptions import VLLMClientError

    if isinstance(error, RayscopeError):
        return error
    if isinstance(error, VLLMClientError):
        return InvalidRequest(str(error))
    return Unavailable(f"{DEAD}: {type(error).__name__}", RESTART_HINT)
