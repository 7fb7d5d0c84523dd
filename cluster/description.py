"""From an application's arguments to the description of what it will serve.

Runs in the application's builder, once per deploy: configurations of the model and its SAEs are read here, weights are
not. Replicas and the Gateway receive the finished description.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.arguments import ModelAppArgs, RunnerArgs
from cluster.graph_arguments import GraphAppArgs
from cluster.steerer_arguments import SteererArgs
from core.catalogue.catalogue import SourceFilter, find_model, find_sources, weights_location
from core.catalogue.description import Limits, ModelDescription, RunnerDescription, SteererDescription
from core.engine.shape import ModelShape
from core.persona.asset import PersonaAsset, find_persona

_LOG = logging.getLogger("ray.serve")


def describe(args: ModelAppArgs) -> ModelDescription:
    """Resolves everything that the arguments name.

    Raises:
        NotFound: A source set does not exist; the hint lists those that do.
        InvalidRequest: A local source folder holds nothing usable.
    """
    longest = min(args.generation_limit, _longest(args.steerer))
    model = _described(args, Limits(args.token_limit, int(longest), args.batch_limit, args.max_num_results))
    return replace(
        model,
        runners=tuple(_describe_runner(args.model, runner) for runner in args.runners),
        persona=_persona(args, [model.weights, model.names.id, *model.names.aliases], model.shape),
        steerer=None if args.steerer is None else _describe_steerer(args.model, args.steerer),
    )


def describe_graphs(args: GraphAppArgs) -> ModelDescription:
    """The model of a graph application. What its transcoders are, the replica that opens them says.

    Raises:
        NotFound: The model is not known.
    """
    longest = args.prompt_limit + args.generation_limit
    model = _described(args, Limits(args.prompt_limit, longest, batch_limit=1, max_num_results=1))
    limits = replace(model.limits, token_limit=min(args.prompt_limit, model.shape.max_positions))
    return replace(model, limits=limits)


def _described(args: ModelAppArgs | GraphAppArgs, limits: Limits) -> ModelDescription:
    """The model alone; what is generated ends where its positions do."""
    names = find_model(args.model)
    weights = args.weights or names.weights
    shape = _shape(weights, args.revision)
    return ModelDescription(
        names=names,
        weights=weights,
        revision=args.revision,
        dtype=args.model_dtype,
        device=args.device,
        shape=shape,
        limits=replace(limits, generation_limit=min(limits.generation_limit, shape.max_positions)),
        runners=(),
    )


def _describe_runner(model: str, args: RunnerArgs) -> RunnerDescription:
    wanted = SourceFilter(tuple(args.include), tuple(args.exclude))
    sources = find_sources(model, args.source_sets, args.source_folders, wanted)
    return RunnerDescription(args.name, tuple(sources), args.max_ongoing_requests)


def _longest(steerer: SteererArgs | None) -> float:
    """Tokens that a sequence of the Steerer may have."""
    return math.inf if steerer is None or steerer.max_model_len is None else steerer.max_model_len


def _persona(args: ModelAppArgs, names: list[str], shape: ModelShape) -> PersonaAsset | None:
    """The model's persona asset. A bad one is no reason not to serve the model."""
    root = None if args.persona_data_path is None else Path(args.persona_data_path)
    found = find_persona(names, shape, root)
    for warning in found.warnings:
        _LOG.warning("%s", warning)
    return found.asset


def _describe_steerer(model: str, args: SteererArgs) -> SteererDescription:
    sources = find_sources(model, args.source_sets, args.source_folders)
    return SteererDescription(args.name, tuple(sources), args.max_ongoing_requests)


def _shape(weights: str, revision: str | None) -> ModelShape:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(weights_location(weights), revision=revision)
    return ModelShape.from_config(config)
