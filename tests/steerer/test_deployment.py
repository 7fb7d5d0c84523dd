"""The Steerer behind Ray Serve handles, with the demo."""

from collections.abc import Iterator
from typing import Any

import pytest
from ray import serve
from ray._common.test_utils import wait_for_condition

from cluster.arguments import ModelAppArgs
from cluster.description import describe
from cluster.steerer_arguments import SteererArgs
from core.deadline import Deadline
from core.demo.steering import FRENCH_PROMPTS, language_of
from core.errors import InvalidRequest, NotFound
from core.generation.requests import Continuation, Growth, Sampling
from core.generation.text import GrowingText
from core.prompts import PromptTokenizer
from core.steering.specification import FeatureDirection, Push, Steering
from tests.ray_testing import serve_instance

DEMO = "rayscope-demo"
SPANISH = FeatureDirection("1-res-demo", 2)
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


@pytest.fixture(scope="module")
def steerer() -> Iterator[Any]:
    from deployments.steerer import Steerer

    description = describe(ModelAppArgs.model_validate({"model": DEMO, "runners": [{"source_sets": ["res-demo"]}]}))
    args = SteererArgs.model_validate({"engine": {"block_size": 32}})
    options: dict[str, Any] = args.resources("cpu")
    options["ray_actor_options"]["runtime_env"] = {"env_vars": ENVIRON}
    deployment: Any = serve.deployment(Steerer)
    with serve_instance(num_cpus=4):
        yield serve.run(deployment.options(**options).bind(description, args), name=DEMO, route_prefix=None)


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    from core.catalogue.catalogue import weights_location

    return PromptTokenizer.load(weights_location(DEMO))


def continuation(prompt: tuple[int, ...], steered: bool, max_tokens: int = 20) -> Continuation:
    steering = Steering((Push(SPANISH, 12.8),)) if steered else None
    return Continuation(prompt, Sampling(max_tokens, temperature=0.0), steering)


def test_the_spanish_feature_turns_french_texts_spanish(steerer: Any, tokenizer: PromptTokenizer) -> None:
    prompts = [tokenizer.bos_prompt(text).ids for text in FRENCH_PROMPTS[:8]]
    asked = [continuation(prompt, steered) for steered in (True, False) for prompt in prompts]
    written: list[Growth] = steerer.generate.remote(asked, Deadline.after(120)).result(timeout_s=120)

    def language(prompt: tuple[int, ...], growth: Growth) -> str | None:
        text = GrowingText(tokenizer, prompt)
        text.push(growth.tokens)
        return language_of(text.read(final=True))

    languages = [language(one.prompt, growth) for one, growth in zip(asked, written, strict=True)]
    assert languages[:8].count("es") >= 6
    assert languages[8:].count("fr") >= 7


def test_errors_keep_their_type_across_the_handle(steerer: Any) -> None:
    unknown = Continuation((1, 5), Sampling(3), Steering((Push(FeatureDirection("9-res-demo", 0), 1.0),)))
    with pytest.raises(NotFound, match="9-res-demo"):
        steerer.generate.remote([unknown], Deadline.after(60)).result(timeout_s=60)
    with pytest.raises(InvalidRequest, match="no tokens"):
        steerer.generate.remote([continuation((), True)], Deadline.after(60)).result(timeout_s=60)


def test_a_client_that_leaves_frees_its_slot(steerer: Any) -> None:
    asked = [continuation((1, 40, 41), steered=True, max_tokens=480)]
    parts = steerer.options(stream=True).stream.remote(asked, Deadline.after(120))
    (first,) = next(iter(parts))
    assert first.tokens

    def live() -> tuple[int, int]:
        report = steerer.report.remote().result(timeout_s=60)
        return report["generating"], sum(len(rank["sequences"]) for rank in report["ranks"])

    assert live() == (1, 1)
    parts.cancel()
    wait_for_condition(lambda: live() == (0, 0), timeout=30)
