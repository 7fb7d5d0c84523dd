"""A language model of this cluster, behind a function that answers a conversation.

    endpoint = LocalEndpoint("gemma-2-2b-it", client.chat)       # `deployments.client.ModelClient`

The function is given, so nothing here knows Ray. It answers text: no token counts, which are estimated (or counted by
`count_tokens`), and no log-probabilities, so asking for them is an error. A JSON schema is not enforced; prompts say
the form of the answer too.
"""

from collections.abc import Callable
from typing import Any, Protocol

from core.autointerp.language_model import Ask, Reply, Usage
from core.autointerp.providers import failures
from core.autointerp.providers.failures import AttemptFailed
from core.autointerp.providers.pricing import text_tokens
from core.chat_template import Message
from core.errors import DeadlineExceeded, Overloaded, ProviderBusy, ProviderRejected, Unavailable


class Chat(Protocol):
    """Answers a conversation; `temperature` and `seed` are given if they were asked for."""

    async def __call__(self, messages: list[Message], *, max_tokens: int, timeout_s: float, **sampling: Any) -> str:
        """The assistant's answer."""
        ...


class LocalEndpoint:
    """A model behind a function.

    Args:
        name: The model's id.
        chat: Answers.
        place: Tells apart what has the same name, such as the application's name.
        count_tokens: How many tokens a text has.
    """

    def __init__(
        self, name: str, chat: Chat, *, place: str = "cluster", count_tokens: Callable[[str], int] = text_tokens
    ) -> None:
        self._name = name
        self._chat = chat
        self._place = place
        self._count = count_tokens

    @property
    def name(self) -> str:
        """The model's id."""
        return self._name

    @property
    def place(self) -> str:
        """Where in the cluster."""
        return self._place

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        """See `Endpoint`.

        Raises:
            AttemptFailed: It was busy, down or late.
            ProviderRejected: Log-probabilities were asked for.
            RayscopeError: It refuses the question.
        """
        if question.top_logprobs or question.prompt_logprobs:
            said = f"{self._name} of this cluster gives no log-probabilities."
            raise ProviderRejected(said, "Turn them off, or name a provider that has them.")
        sampling = {"temperature": question.temperature, "seed": question.seed}
        try:
            text = await self._chat(
                [Message(message.role, message.content) for message in question.messages],
                max_tokens=question.max_tokens,
                timeout_s=timeout_s,
                **{name: value for name, value in sampling.items() if value is not None},
            )
        except Overloaded as error:
            busy = ProviderBusy(error.message, error.hint, error.retry_after_s)
            raise AttemptFailed(busy, may_pass=True, throttled=True, retry_after_s=error.retry_after_s) from None
        except Unavailable as error:
            raise AttemptFailed(error, may_pass=True) from None
        except DeadlineExceeded:
            raise failures.timed_out(self._name, timeout_s) from None
        read = sum(self._count(message.content) for message in question.messages)
        usage = Usage(read, self._count(text), calls=1)
        if not text:
            raise failures.refused(self._name, "its answer is empty", usage)
        return Reply(text, usage, self._name)
