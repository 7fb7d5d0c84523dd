"""Models of this cluster that explain, judge and are steered, found by name when they are first asked.

Applications come and go, so nothing is looked up before it is needed, and a name that nobody serves is an error of the
task that names it. The demo's scripted model is here too; it needs no application.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.autointerp_rules import LOCAL_PLACE
from core.autointerp.examples import FeatureName
from core.autointerp.providers.endpoint import Endpoint
from core.autointerp.providers.local import LocalEndpoint
from core.autointerp.subject import Generate, SteeredSubject
from core.chat_template import Message
from core.deadline import Deadline
from core.demo.oracle import ORACLE_MODEL, DemoOracle
from core.errors import ModelNotFound
from core.exchange.directions import checked_steering
from core.generation.requests import Continuation, Growth
from deployments.client import ModelClient
from deployments.gateway.directory import Directory

_LIKELIEST_OF_OURS = 1000  # vLLM gives fewer log-probabilities, the engine of a Runner as many as it is asked


class LocalModels:
    """The models of the cluster. Also a `Subject`: each feature's own model.

    Args:
        names: Which may be asked; None: every one. All can be steered.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = None if names is None else frozenset(names)
        self._directory = Directory(None)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of a model.

        Raises:
            ModelNotFound: It may not be asked.
        """
        if self._names is not None and name not in self._names:
            listed = ", ".join(sorted(self._names)) or "none"
            raise ModelNotFound(f"The model '{name}' does not explain or judge here.", f"These do: {listed}.")
        if name == ORACLE_MODEL:
            return DemoOracle()

        async def chat(messages: list[Message], *, max_tokens: int, timeout_s: float, **sampling: Any) -> str:
            client = await self._directory.find(name)
            return await client.chat(messages, max_tokens=max_tokens, timeout_s=timeout_s, **sampling)

        return LocalEndpoint(name, chat, place=LOCAL_PLACE)

    async def complete(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, max_tokens: int, deadline: Deadline
    ) -> list[str]:
        """See `core.autointerp.subject.Subject`."""
        subject = await self._subject(feature)
        return await subject.complete(feature, prompts, strength, max_tokens, deadline)

    async def divergences(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, deadline: Deadline
    ) -> list[float]:
        """See `core.autointerp.subject.Subject`."""
        return await (await self._subject(feature)).divergences(feature, prompts, strength, deadline)

    async def aclose(self) -> None:
        """Stops looking."""
        await self._directory.aclose()

    async def _subject(self, feature: FeatureName) -> SteeredSubject:
        client = await self._directory.find(feature.model)
        by_vllm = client.description.steerer is not None
        return SteeredSubject(_checking(client), client.served.tokenizer, *(() if by_vllm else (_LIKELIEST_OF_OURS,)))


def _checking(client: ModelClient) -> Generate:
    """Generates after the checks that a request for steering goes through."""

    async def generate(asked: Sequence[Continuation], deadline: Deadline) -> list[Growth]:
        checked = [
            one if one.steering is None else replace(one, steering=checked_steering(one.steering, client.served))
            for one in asked
        ]
        return await client.generate(checked, deadline)

    return generate
