"""Application builders: typed arguments in, a Serve application out.

`serve_config.yaml` names these functions. Ray reads their annotations at run time, so annotations must not be postponed
in this module.
"""

from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from cluster.arguments import GatewayArgs, ModelAppArgs, RunnerArgs
from cluster.description import describe
from cluster.steerer_arguments import SteererArgs
from core.catalogue.description import ModelDescription
from deployments.card import ModelCard
from deployments.gateway.gateway import Gateway
from deployments.job_board import JobBoard
from deployments.runner import Runner
from deployments.steerer import Steerer

_RETRY_AFTER_S = 1.0
_JOB_REQUESTS = 2000  # they only wait; jobs themselves are bounded in the board


def build_model_app(args: ModelAppArgs) -> Application:
    """One model: its card, its Runner deployments and its Steerer."""
    description = describe(args)
    card = _deployment(ModelCard).options(num_replicas=1, ray_actor_options={"num_cpus": 0})
    bound = [_bind_runner(description, runner) for runner in args.runners]
    if args.steerer is not None:
        bound.append(_bind_steerer(description, args.steerer))
    return card.bind(description, *bound)


def build_gateway(args: GatewayArgs) -> Application:
    """The front door of the whole cluster, and the board that its replicas share."""
    board = _deployment(JobBoard).options(
        num_replicas=1,
        max_ongoing_requests=_JOB_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5,
    )
    deployment = _deployment(Gateway).options(
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.min_replicas, max_replicas=args.max_replicas, target_ongoing_requests=64
        ),
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_S),
        ray_actor_options={"num_cpus": args.num_cpus},
    )
    return deployment.bind(args, board.bind(args.max_timeout_s))


def _deployment(cls: type) -> Deployment:
    deployment: Any = serve.deployment(cls)
    return deployment


def _bind_runner(description: ModelDescription, args: RunnerArgs) -> Application:
    return _bind(Runner, description, args, {"health_check_timeout_s": 30})


def _bind_steerer(description: ModelDescription, args: SteererArgs) -> Application:
    # Its check goes through the engine, behind whatever step runs there.
    return _bind(Steerer, description, args, {**args.resources(description.device), "health_check_timeout_s": 120})


def _bind(
    cls: type, description: ModelDescription, args: RunnerArgs | SteererArgs, options: dict[str, Any]
) -> Application:
    deployment = _deployment(cls).options(
        name=args.name,
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_S),
        # A checkpoint that can not be loaded stays bad: say so soon.
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=30,
        **args.options(),
        **options,
    )
    return deployment.bind(description, args)
