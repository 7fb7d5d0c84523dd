"""Gateway: the cluster's HTTP ingress. Authenticates, parses, tokenises, checks limits, and asks the right Runner."""

import logging
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.openapi.utils import get_openapi
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.arguments import GatewayArgs
from deployments.gateway.autointerp_job_routes import add_autointerp_job_routes
from deployments.gateway.autointerp_routes import add_autointerp_routes
from deployments.gateway.cluster_routes import add_cluster_routes
from deployments.gateway.desk import Desk
from deployments.gateway.directory import Directory
from deployments.gateway.door import Door
from deployments.gateway.errors import install_error_handlers
from deployments.gateway.graph_job_routes import add_graph_job_routes
from deployments.gateway.graph_routes import add_graph_routes
from deployments.gateway.jobs import Jobs
from deployments.gateway.openai_routes import add_openai_routes
from deployments.gateway.routes import add_routes
from deployments.gateway.serverless_routes import add_serverless_routes
from deployments.gateway.steering_routes import add_steering_routes

_LOG = logging.getLogger("ray.serve")
_COMPRESS_FROM_BYTES = 1000
_COMPRESS_LEVEL = 6
_ABOUT = (
    "What happens inside language models: which SAE features fire and where. The examples work against the demo. "
    "Keys may be camelCase or snake_case; replies follow the request."
)


@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Gateway:
    """One replica of the front door; holds no weights."""

    async def __init__(self, args: GatewayArgs, board: DeploymentHandle[Any]) -> None:
        self._args = args
        self._directory = Directory(args.refresh_s)
        self._desk = Desk(args, self._directory, Jobs(board))
        if self._desk.secret is None:
            _LOG.warning("NO SECRET IS CONFIGURED: anyone who reaches this port may use every model. See `secret`.")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Builds the app once per replica, when the replica's own state exists."""
        return build_http_app(self._args, self._desk)

    async def check_health(self) -> None:
        """The door is up when its event loop runs."""

    async def __del__(self) -> None:
        """Stops watching the cluster."""
        await self._directory.aclose()


def build_http_app(args: GatewayArgs, desk: Desk) -> FastAPI:
    """The FastAPI app of one Gateway."""
    app = FastAPI(title="Rayscope", version=version("rayscope"), description=_ABOUT)
    install_error_handlers(app)
    add_routes(app, desk)
    add_steering_routes(app, desk)
    add_openai_routes(app, desk)
    add_serverless_routes(app, desk)
    add_graph_routes(app, desk)
    add_graph_job_routes(app, desk)
    add_autointerp_routes(app, desk)
    add_autointerp_job_routes(app, desk)
    add_cluster_routes(app, desk)
    app.add_middleware(Door, secret=desk.secret, max_body_bytes=args.max_body_bytes)
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESS_FROM_BYTES, compresslevel=_COMPRESS_LEVEL)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app.openapi = lambda: _document(app)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, which names the secret header."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["components"]["securitySchemes"] = {
            "SimpleSecretAuth": {"type": "apiKey", "in": "header", "name": "X-SECRET-KEY"}
        }
        document["security"] = [{"SimpleSecretAuth": []}]
        app.openapi_schema = document
    return app.openapi_schema
