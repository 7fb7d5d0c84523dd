"""A language model behind an OpenAI-compatible URL: OpenRouter, OpenAI, vLLM, or whoever speaks the same form.

    endpoint = OpenAIEndpoint(client, "https://openrouter.ai/api/v1", "openai/gpt-4o-mini", ProviderKey("sk-..."))

    chat completions   every question; with `prompt_logprobs`, as vLLM has it, where those of a conversation are wanted
    completions        with `echo`, a single message whose own log-probabilities are wanted; by chat completions if the
                       provider has no such form

The client of a process is `open_client(policy)`; all endpoints share it, and calls one after the other share
connections. It calls only what the policy admits, follows no redirect, uses no proxy and keeps no cookies. The key is
in one header of one request and nowhere else: errors have the provider's words without it, and nothing here logs.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx
import orjson

from core.autointerp.language_model import Ask, Reply, Usage
from core.autointerp.providers import chat_form, completion_form, failures
from core.autointerp.providers.chat_form import Dialect
from core.autointerp.providers.failures import AttemptFailed, Said
from core.autointerp.providers.keys import ProviderKey
from core.errors import InvalidRequest, ModelNotFound, ProviderRejected, UrlRefused
from core.outbound_urls import CheckedTransport, UrlPolicy

_OK: Final = 200
_BAD_REQUEST: Final = 400
_BAD_GATEWAY: Final = 502
_CONNECT_S: Final = 10.0
_LARGEST_ANSWER_BYTES: Final = 64 * 2**20  # log-probabilities of a long prompt are some MB


def open_client(policy: UrlPolicy, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The client of a process, to be closed by who opened it; `transport` instead of one that asks the policy."""
    return httpx.AsyncClient(
        transport=transport or CheckedTransport(policy),
        timeout=httpx.Timeout(None, connect=_CONNECT_S),  # an attempt is limited as a whole
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keys share the client
    )


class OpenAIEndpoint:
    """A model behind a URL.

    Args:
        client: The process's.
        base_url: What `/chat/completions` is added to.
        model: The provider's name for it.
        key: The provider key.

    Raises:
        UrlRefused: The URL has a query or a fragment, where keys do not belong, or can not be read.
    """

    def __init__(self, client: httpx.AsyncClient, base_url: str, model: str, key: ProviderKey | None = None) -> None:
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError):
            raise UrlRefused("The provider's URL can not be read.") from None
        if url.query or url.fragment or url.userinfo:
            said = "The provider's URL was given with a user, a query or a fragment."
            raise UrlRefused(said, "Give the base URL alone, such as https://openrouter.ai/api/v1, and the key apart.")
        self._client = client
        self._place = str(url).rstrip("/")
        self._model = model
        self._key = key or ProviderKey()
        self._dialect = Dialect.of(model)

    @property
    def name(self) -> str:
        """The provider's name for the model."""
        return self._model

    @property
    def place(self) -> str:
        """The base URL."""
        return self._place

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        """See `Endpoint`. A field that the provider does not take is left out from then on, and the question sent anew.

        Raises:
            AttemptFailed: There is no answer.
            InvalidRequest: The prompt is no Unicode text.
            UrlRefused: The URL may not be called.
        """
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                if self._dialect.plain_text and completion_form.is_plain_text(question):
                    return await self._complete(question)
                return await self._chat(question)
        except (TimeoutError, httpx.TimeoutException):
            raise failures.timed_out(self._model, timeout_s if scope.expired() else _CONNECT_S) from None
        except httpx.RequestError as error:
            raise failures.broken(self._model, f"the connection broke ({type(error).__name__})") from None

    async def _complete(self, question: Ask) -> Reply:
        try:
            answer = await self._post("completions", completion_form.body(self._model, question))
            return completion_form.read_reply(self._model, question, answer)
        except AttemptFailed as failed:
            if not isinstance(failed.error, ModelNotFound | ProviderRejected):
                raise
            spent = failed.usage or Usage()
        reply = await self._chat(question)
        self._dialect = replace(self._dialect, plain_text=False)
        return replace(reply, usage=reply.usage + spent)

    async def _chat(self, question: Ask) -> Reply:
        while True:
            dialect = self._dialect
            body = dialect.body(self._model, question)
            try:
                return chat_form.read_reply(self._model, question, await self._post("chat/completions", body))
            except AttemptFailed as failed:
                fewer = None if failed.may_pass else dialect.without(failed.said, body)
                if fewer is None:
                    raise
                self._dialect = fewer

    async def _post(self, route: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", **self._key.header}
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError:
            raise InvalidRequest("The prompt has characters that are no Unicode text.", "Leave them out.") from None
        async with self._client.stream("POST", f"{self._place}/{route}", content=content, headers=headers) as response:
            raw = await self._read(response)
        wait_s = failures.seconds_to_wait(response.headers.get("Retry-After"), datetime.now(UTC))
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            if response.status_code == _OK:
                raise failures.broken(self._model, "its answer is not JSON") from None
            answer = None
        if response.status_code != _OK:
            raise failures.of_status(self._model, response.status_code, self._said(answer), wait_s)
        self._check_inside(answer, wait_s)
        return answer

    async def _read(self, response: httpx.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > _LARGEST_ANSWER_BYTES:
                raise failures.broken(self._model, f"its answer is larger than {_LARGEST_ANSWER_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)

    def _check_inside(self, answer: Any, wait_s: float | None) -> None:
        """OpenRouter writes 200 before it knows, and an error inside if it fails later."""
        inside = answer
        if isinstance(answer, dict) and not answer.get("error"):
            choices = answer.get("choices")
            inside = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(inside, dict) or not inside.get("error"):
            return
        error = inside["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and code >= _BAD_REQUEST else _BAD_GATEWAY
        raise failures.of_status(self._model, status, self._said(inside), wait_s)

    def _said(self, answer: Any) -> Said:
        return Said.of(answer).mapped(self._key.hidden_in)
