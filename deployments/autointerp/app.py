"""The builder of the automatic interpretability application: typed arguments in, a Serve application out.

    Bookkeeper, Embedder <- Explainer, Scorer <- Jobs        the Directory knows the application by its `Jobs`

Ray reads annotations at run time, so annotations must not be postponed in this module.
"""

from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import BackpressureConfig

from cluster.autointerp_arguments import AutointerpArgs, WorkerArgs
from deployments.autointerp.bookkeeper import Bookkeeper
from deployments.autointerp.embedder import Embedder
from deployments.autointerp.explainer import Explainer
from deployments.autointerp.jobs import Jobs
from deployments.autointerp.scorer import Scorer

_WAITING = 20_000  # calls of language models that wait for their turn
_RETRY_AFTER_S = 1.0
_HEALTH_TIMEOUT_S = 60


def build_autointerp_app(args: AutointerpArgs) -> Application:
    """Explains and scores features of all models of the cluster."""
    bookkeeper = _single(Bookkeeper, args).bind(args)
    embedder = None if args.embedder is None else _replicas(Embedder, args.embedder).bind(args.embedder)
    explainer = _replicas(Explainer, args.explainer).bind(args, bookkeeper, embedder)
    scorer = _replicas(Scorer, args.scorer).bind(args, bookkeeper, embedder)
    return _single(Jobs, args).bind(args, explainer, scorer, bookkeeper)


def _single(cls: type, args: AutointerpArgs) -> Deployment:
    """One replica, where its files are."""
    resources = {} if args.state_resource is None else {args.state_resource: 0.001}
    return _deployment(cls).options(
        num_replicas=1,
        max_ongoing_requests=_WAITING,
        ray_actor_options={"num_cpus": 0, "resources": resources},
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=10,
    )


def _replicas(cls: type, args: WorkerArgs) -> Deployment:
    return _deployment(cls).options(
        **args.options(),
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_S),
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        # What can not be loaded stays bad: say so soon.
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=30,
    )


def _deployment(cls: type) -> Deployment:
    deployment: Any = serve.deployment(cls)
    return deployment
