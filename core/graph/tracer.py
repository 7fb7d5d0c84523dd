"""The tracer: everything about a graph that needs the whole model and its transcoders.

    prompt --forward pass--> all active features --rows of the targets--> K selected features --> Traced

With the autograd engine, or where features are ranked again and again, rows need what only this process has, so the
whole graph is attributed here and comes out as `Effects`.

The same process answers what else needs model and transcoders: forward passes and interventions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.graph.admission import SchedulerLimits
from core.graph.attribution import Attribution, Choice, Selecting
from core.graph.autograd import Autograd
from core.graph.cost import CostModel, GraphCost, GraphSize
from core.graph.effects import Effects, FeatureNodes, LogitNodes
from core.graph.forward_pass import forward_pass
from core.graph.intervention import InterventionEngine
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised, TargetRows
from core.graph.plan import Progress
from core.graph.replay import Replay, replay_rows
from core.graph.requests import (
    AttributionOptions,
    ForwardPassAnswer,
    ForwardPassQuestion,
    GraphPrompt,
    InterventionAnswer,
    InterventionQuestion,
)
from core.graph.scheduler import RowScheduler
from core.graph.selection import Selected
from core.graph.targets import Place, Targets, Unembedding, custom_targets, salient_targets
from core.graph.traced import Traced
from core.graph.tracing import trace
from core.graph.transcoders.transcoder import TranscoderSet

EngineName = Literal["replay", "autograd"]
Report = Callable[[Progress], None]
_AUTOGRAD_ROWS: Final = 32  # gradients of all layers are kept for each of them


@dataclass(frozen=True, slots=True)
class TracerSettings:
    """How graphs are made here.

    Attributes:
        engine: Which engine computes rows.
        update_interval: Blocks of a request's `batch_size` rows between two rankings.
        limits: Of the rows that are computed here.
    """

    engine: EngineName
    update_interval: int
    limits: SchedulerLimits


class GraphTracer:
    """Traces prompts with one model and one set of transcoders. Lives on one event loop.

    Args:
        model: The model.
        transcoders: A set made for it.
        token_text: The text of a token id, for the targets' labels.
        device: The device's thread.
        settings: How.
    """

    def __init__(
        self,
        model: EagerModel,
        transcoders: TranscoderSet,
        token_text: Callable[[int], str],
        device: DeviceExecutor,
        settings: TracerSettings,
    ) -> None:
        self._model = model
        self._transcoders = transcoders
        self._token_text = token_text
        self._device = device
        self._settings = settings
        autograd = settings.engine == "autograd"
        self._unembedding = Unembedding.of(model.module.get_output_embeddings().weight)
        self._weights = None if autograd else LinearWeights.of_model(model.module).with_skips(transcoders)
        self._cost = CostModel.of(transcoders.shape, model.dtype.itemsize, keeps_layers=autograd)
        self._scheduler = RowScheduler(_rows_by_autograd if autograd else _rows_by_replay, device, settings.limits)
        self._interventions = InterventionEngine(model, transcoders, device)

    async def trace(
        self, prompt: GraphPrompt, options: AttributionOptions, deadline: Deadline, report: Report | None = None
    ) -> Traced | Effects:
        """Traces a prompt and selects features; or attributes the whole graph, see the module.

        Args:
            prompt: The prompt.
            options: Which nodes the graph has.
            deadline: When nobody waits any more.
            report: Is told of rows that are done here.

        Raises:
            InvalidRequest: The model can not read the prompt, or does not know a target.
            TooLarge: The graph does not fit.
            Overloaded: Too many graphs wait.
            DeadlineExceeded: The deadline passed.
        """
        async with deadline.limit():
            linearised, targets = await self._device.run(self._linearise, prompt, options)
        choice = Choice(options.max_feature_nodes, self._settings.update_interval * options.batch_size)
        n_active = len(linearised.features)
        cost = self._predict(linearised, targets, choice)
        if isinstance(linearised, Replay) and choice.ranks_once(n_active):
            plan = Selecting(linearised, targets.nodes, targets.rows, options.max_feature_nodes)
            del linearised
            selected = await self._scheduler.submit(plan, cost, deadline, block_rows=options.batch_size)
            return await self._device.run(self._portable, selected)
        if isinstance(linearised, Replay):
            linearised = await self._device.run(self._with_encoders, linearised)
        attribution = Attribution(linearised, targets.nodes, targets.rows, choice)
        del linearised
        effects = await self._scheduler.submit(attribution, cost, deadline, report, options.batch_size)
        return await self._device.run(effects_on_cpu, effects)

    async def forward_pass(self, question: ForwardPassQuestion, deadline: Deadline) -> ForwardPassAnswer:
        """What comes after a prompt."""
        async with deadline.limit():
            return await self._device.run(forward_pass, self._model, question)

    async def intervene(self, question: InterventionQuestion, deadline: Deadline) -> InterventionAnswer:
        """A prompt continued twice; see `core.graph.intervention`."""
        return await self._interventions.answer(question, deadline)

    def check(self) -> None:
        """Do nothing while graphs can be traced.

        Raises:
            Unavailable: The scheduler or the device has stopped.
        """
        self._scheduler.check()

    async def aclose(self) -> None:
        """Fails what is in progress."""
        await self._scheduler.aclose()

    def _linearise(self, prompt: GraphPrompt, options: AttributionOptions) -> tuple[Replay | Autograd, Targets]:
        if self._weights is None:
            linearised = Autograd.trace(self._model, self._transcoders, prompt.ids, zeroed=prompt.n_silent)
            logits = linearised.logits
        else:
            frozen = trace(self._model, self._transcoders, prompt.ids, zeroed=prompt.n_silent)
            linearised, logits = Replay(self._weights, frozen), frozen.logits
        place = Place(linearised.n_layers, len(prompt.ids) - 1)
        if options.targets is not None:
            return linearised, custom_targets(options.targets, logits, self._unembedding, place, self._token_text)
        return linearised, salient_targets(
            logits,
            self._unembedding,
            place,
            self._token_text,
            max_n_logits=options.max_n_logits,
            desired_logit_prob=options.desired_logit_prob,
        )

    def _predict(self, linearised: Replay | Autograd, targets: Targets, choice: Choice) -> GraphCost:
        n_active = len(linearised.features)
        once = choice.ranks_once(n_active)
        elsewhere = once and isinstance(linearised, Replay)
        return self._cost.predict(
            GraphSize(
                n_layers=linearised.n_layers,
                n_tokens=len(linearised.token_ids),
                d_model=self._model.shape.d_model,
                n_held=n_active,
                n_features=0 if elsewhere else choice.count(n_active),
                n_logits=len(targets.nodes),
                reranked=not once,
            )
        )

    def _with_encoders(self, replay: Replay) -> Replay:
        return Replay(replay.weights, replay.prompt.with_encoders(self._transcoders))

    def _portable(self, selected: Selected) -> Traced:
        replay = selected.linearised
        if not isinstance(replay, Replay):
            raise TypeError("only replayed prompts travel")
        prompt = replay.prompt.with_encoders(self._transcoders).to("cpu")
        return Traced(prompt, on_cpu(selected.logits), selected.effects.cpu(), selected.n_active)


def on_cpu(logits: LogitNodes) -> LogitNodes:
    """The same targets in host memory."""
    return LogitNodes(logits.token_ids, logits.labels, logits.probabilities.cpu())


def effects_on_cpu(effects: Effects) -> Effects:
    """The same effects in host memory."""
    features = effects.features
    nodes = FeatureNodes(features.layer.cpu(), features.position.cpu(), features.index.cpu(), features.activation.cpu())
    return Effects(
        effects.token_ids, effects.n_layers, nodes, on_cpu(effects.logits), effects.n_active, effects.weights.cpu()
    )


def _rows_by_replay(work: list[tuple[Linearised, TargetRows]]) -> Sequence[Tensor]:
    return replay_rows([(one, targets) for one, targets in work if isinstance(one, Replay)])


def _rows_by_autograd(work: list[tuple[Linearised, TargetRows]]) -> Sequence[Tensor]:
    rows: list[Tensor] = []
    for one, targets in work:
        starts = range(0, len(targets), _AUTOGRAD_ROWS)
        rows.append(torch.cat([one.rows(targets[start : start + _AUTOGRAD_ROWS]) for start in starts]))
    return rows
