"""The builder of a graph application: typed arguments in, a Serve application of four deployments out.

Ray reads annotations at run time, so annotations must not be postponed in this module.
"""

from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from cluster.description import describe_graphs
from cluster.graph_arguments import GraphAppArgs, StageArgs
from deployments.graph.attributor import Attributor
from deployments.graph.pipeline import GraphPipeline
from deployments.graph.publisher import Publisher
from deployments.graph.tracer import Tracer

_PIPELINE_REQUESTS = 1000  # they mostly wait; graphs themselves are bounded by the pipeline's queue
_HEALTH_TIMEOUT_S = 60


def build_graph_app(args: GraphAppArgs) -> Application:
    """One model with one set of transcoders."""
    description = describe_graphs(args)
    stages = [
        _stage(cls, options).bind(description, args)
        for cls, options in ((Tracer, args.tracer), (Attributor, args.attributor), (Publisher, args.publisher))
    ]
    pipeline = _deployment(GraphPipeline).options(
        num_replicas=1,
        max_ongoing_requests=_PIPELINE_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5,
    )
    return pipeline.bind(description, args, *stages)


def _stage(cls: type, args: StageArgs) -> Deployment:
    return _deployment(cls).options(
        **args.options(),
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        # What can not be loaded stays bad: say so soon.
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=30,
    )


def _deployment(cls: type) -> Deployment:
    deployment: Any = serve.deployment(cls)
    return deployment
