"""What a served model says about itself: enough to check and route every request without touching a device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.catalogue.model_ids import ModelNames
from core.catalogue.sources import Source
from core.device import DeviceName
from core.engine.shape import ModelShape
from core.errors import InvalidRequest, NotFound
from core.persona.asset import PersonaAsset


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may ask for.

    Attributes:
        token_limit: Tokens of a prompt, BOS included.
        generation_limit: Tokens of a prompt and what is generated after it.
        batch_limit: Prompts of a batch request.
        max_num_results: Features that `all` may report.
    """

    token_limit: int
    generation_limit: int
    batch_limit: int
    max_num_results: int


@dataclass(frozen=True, slots=True)
class RunnerDescription:
    """One Runner deployment.

    Attributes:
        name: Deployment name.
        sources: The sources that it serves, in set order.
        max_ongoing_requests: Requests that one of its replicas works on at once.
    """

    name: str
    sources: tuple[Source, ...]
    max_ongoing_requests: int


@dataclass(frozen=True, slots=True)
class SteererDescription:
    """The model's Steerer deployment, where it has one.

    Attributes:
        name: Deployment name.
        sources: Sources whose features it can steer with, besides the Runners'.
        max_ongoing_requests: Requests that one of its replicas works on at once.
    """

    name: str
    sources: tuple[Source, ...]
    max_ongoing_requests: int


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A served model.

    Attributes:
        names: What it is called; `names.id` goes out in answers.
        weights: Hugging Face id or folder that is really loaded (an override, or `names.weights`).
        revision: Revision of the weights.
        dtype: Precision of the model as configured.
        device: Device as configured.
        shape: Its sizes.
        limits: What a request may ask for.
        runners: The Runner deployments. The first one also answers what needs no SAE.
        persona: Directions of the persona monitor, where the model has an asset.
        steerer: The Steerer deployment, which writes texts if there is one; else the Runners do.
    """

    names: ModelNames
    weights: str
    revision: str | None
    dtype: str
    device: DeviceName
    shape: ModelShape
    limits: Limits
    runners: tuple[RunnerDescription, ...]
    steerer: SteererDescription | None = None
    persona: PersonaAsset | None = None

    def sources(self) -> dict[str, Source]:
        """Every served source by id."""
        return {source.id: source for runner in self.runners for source in runner.sources}

    def steerable_sources(self) -> dict[str, Source]:
        """Every source by id whose features can be steered with: those of the Runners and the Steerer's own."""
        own = () if self.steerer is None else self.steerer.sources
        return self.sources() | {source.id: source for source in own}

    def source_sets(self) -> dict[str, tuple[Source, ...]]:
        """Every served source set with its sources, in the order of configuration."""
        return _by_set(self.sources().values())

    def source(self, source_id: str) -> Source:
        """A source whose activations are served.

        Raises:
            NotFound: It is not served; the hint says what is.
        """
        return self._found(self.sources(), source_id)

    def steerable_source(self, source_id: str) -> Source:
        """A source whose features can be steered with.

        Raises:
            NotFound: It is not served; the hint says what is.
        """
        return self._found(self.steerable_sources(), source_id)

    def source_set(self, source_set: str) -> tuple[Source, ...]:
        """The sources of a served set.

        Raises:
            NotFound: It is not served; the hint says what is.
        """
        found = self.source_sets().get(source_set)
        if found is None:
            raise NotFound(
                f"Invalid source set: {source_set}", f"Served source sets: {_sets_of(self.sources().values())}."
            )
        return found

    def first_runner(self) -> str:
        """The Runner deployment that answers what needs no SAE.

        Raises:
            NotFound: The model is served for writing only.
        """
        if not self.runners:
            raise NotFound(
                f"{self.names.id} is served for generating text only.",
                "Add a Runner to its application to ask for activations.",
            )
        return self.runners[0].name

    def deployments(self) -> tuple[str, ...]:
        """Names of the deployments that hold the model."""
        return (*(runner.name for runner in self.runners), *(() if self.steerer is None else (self.steerer.name,)))

    def runner_of(self, source_id: str) -> str:
        """The Runner deployment that serves a source."""
        for runner in self.runners:
            if any(source.id == source_id for source in runner.sources):
                return runner.name
        raise NotFound(f"{self.names.id} serves no source '{source_id}'.")

    def check_layer(self, layer: int) -> None:
        """Refuses a layer that the model does not have."""
        if not 0 <= layer < self.shape.n_layers:
            raise InvalidRequest(f"Invalid layer: {layer}. Must be in [0, {self.shape.n_layers}).")

    def _found(self, sources: Mapping[str, Source], source_id: str) -> Source:
        if source_id not in sources:
            raise NotFound(
                f"{self.names.id} serves no source '{source_id}'.", f"Served source sets: {_sets_of(sources.values())}."
            )
        return sources[source_id]


def _by_set(sources: Iterable[Source]) -> dict[str, tuple[Source, ...]]:
    sets: dict[str, list[Source]] = {}
    for source in sources:
        sets.setdefault(source.source_set, []).append(source)
    return {source_set: tuple(members) for source_set, members in sets.items()}


def _sets_of(sources: Iterable[Source]) -> str:
    ranges = [f"{name} ({members[0].id} to {members[-1].id})" for name, members in _by_set(sources).items()]
    return ", ".join(ranges) or "none"
