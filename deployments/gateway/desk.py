"""What all routes share: find the model, carry the deadline, ask, and render in the casing of the request."""

import math
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from pydantic import SecretStr

from cluster.arguments import GatewayArgs
from core.deadline import Deadline
from core.errors import InvalidRequest
from core.exchange.served import Exchange, ServedModel
from core.questions import Lookup
from core.wire.base import Case, RequestModel, WireModel, render, reply_case
from deployments.autointerp.client import AutointerpClient
from deployments.client import ModelClient
from deployments.gateway.directory import Directory
from deployments.gateway.door import check_secret
from deployments.gateway.jobs import Jobs
from deployments.graph.client import GraphClient

TIMEOUT_HEADER = "x-request-timeout-seconds"
_MARGIN_S = 1.0
_MARGIN_SHARE = 0.25


class Desk:
    """Serves the routes of one Gateway replica."""

    def __init__(self, args: GatewayArgs, directory: Directory, jobs: Jobs) -> None:
        self.directory = directory
        self.jobs = jobs
        self._args = args
        self._secret = args.secret.read()

    @property
    def secret(self) -> str | None:
        """The configured secret; None leaves the door open."""
        return self._secret

    async def model(self, name: str | None) -> ModelClient:
        """The client of the model that a request names."""
        return await self.directory.find(name)

    async def graphs(self, model: str | None, transcoder_set: str | None) -> GraphClient:
        """The client of the model and transcoders that a graph request names."""
        return await self.directory.find_graphs(model, transcoder_set)

    async def autointerp(self) -> AutointerpClient:
        """The client of the application that explains and scores features."""
        return await self.directory.find_autointerp()

    async def exchange(
        self, request: Request, body: Any, name: str | None, exchange: Callable[[Any, ServedModel], Exchange[Any]]
    ) -> Response:
        """Turns a body into questions, asks them, and answers."""
        client = await self.model(name)
        asked = exchange(body, client.served)
        answers = await client.ask(asked.questions, self.deadline(request))
        return self.respond(request, body, asked.reply(answers))

    async def look_up(self, request: Request, name: str, lookup: Callable[[ServedModel], Lookup]) -> Any:
        """Asks for what SAE weights alone can tell."""
        client = await self.model(name)
        return await client.look_up(lookup(client.served), self.deadline(request))

    def deadline(self, request: Request) -> Deadline:
        """When the request's answer is no longer wanted.

        Raises:
            InvalidRequest: The header is not a positive number.
        """
        given = request.headers.get(TIMEOUT_HEADER)
        if given is None:
            return Deadline.after(self._args.default_timeout_s)
        # Serve obeys the same header with a bare 408; ours ends a little earlier, so that the answer says more.
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise InvalidRequest(f"The header {TIMEOUT_HEADER} must be a positive number of seconds.")
        seconds = min(seconds, self._args.max_timeout_s)
        return Deadline.after(seconds - min(_MARGIN_S, seconds * _MARGIN_SHARE))

    def respond(self, request: Request, body: Any, response: WireModel) -> Response:
        """Answers with one body."""
        return Response(self.render(request, body, response), media_type="application/json")

    def render(self, request: Request, body: Any, response: WireModel) -> bytes:
        """Writes a response in the casing of its request."""
        return render(response, self.case(request, body))

    def case(self, request: Request, body: Any) -> Case:
        """The casing of the reply to a request."""
        sent = body.case if isinstance(body, RequestModel) else None
        default: Case = self._args.wire_case
        return reply_case(sent, request.headers.get("user-agent"), default)

    def check_body_secret(self, secret: SecretStr) -> None:
        """Checks the secret that the seed's older routes carry in the body."""
        check_secret(self._secret, secret.get_secret_value())
