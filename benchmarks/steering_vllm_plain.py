"""vLLM as it comes, with the arguments of our engine except those that bring the extension: 16 requests together.

python -m benchmarks.steering_vllm_plain FOLDER PASSES SECONDS TOKENS
"""

import asyncio
from typing import Any
from uuid import uuid4

from benchmarks.steering_cases import Prompt, Shape, continuation, prompts
from benchmarks.steering_timing import Order, Tokens, read_order, report, time_by_turns
from benchmarks.steering_vllm import settings_of
from core.steerer.admission import Admitted
from core.steerer.conversion import sampling_of
from core.steerer.settings import engine_arguments

_EXTENSION = ("worker_extension_cls", "additional_config")


async def measure(order: Order) -> dict[str, Any]:
    """Times 16 requests together."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    shape = Shape.read(order.folder)
    arguments = engine_arguments(settings_of(order.folder, order.n_tokens), (), on_gpu=False)
    for name in _EXTENSION:
        del arguments[name]
    llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def write(prompt: Prompt) -> list[int]:
        sampling = sampling_of(continuation(prompt, None, order.n_tokens).sampling, Admitted(None, {}))
        outputs = llm.generate({"prompt_token_ids": list(prompt)}, sampling, uuid4().hex)
        return [token async for output in outputs for token in output.outputs[0].token_ids]

    async def together(number: int) -> Tokens:
        return await asyncio.gather(*map(write, prompts(shape, number)))

    try:
        return await time_by_turns({"plain": together}, order, "plain")
    finally:
        llm.shutdown()


if __name__ == "__main__":
    report(asyncio.run(measure(read_order())))
