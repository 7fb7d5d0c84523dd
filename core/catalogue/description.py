"""What a served model says about itself: enough to check and route every request without touching a device."""

from dataclasses import dataclass

from core.catalogue.model_ids import ModelNames
from core.catalogue.sources import Source
from core.device import DeviceName
from core.engine.shape import ModelShape
from core.errors import InvalidRequest, NotFound


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
    """

    names: ModelNames
    weights: str
    revision: str | None
    dtype: str
    device: DeviceName
    shape: ModelShape
    limits: Limits
    runners: tuple[RunnerDescription, ...]

    def sources(self) -> dict[str, Source]:
        """Every served source by id."""
        return {source.id: source for runner in self.runners for source in runner.sources}

    def source_sets(self) -> dict[str, tuple[Source, ...]]:
        """Every served source set with its sources, in the order of configuration."""
        sets: dict[str, list[Source]] = {}
        for source in self.sources().values():
            sets.setdefault(source.source_set, []).append(source)
        return {source_set: tuple(sources) for source_set, sources in sets.items()}

    def source(self, source_id: str) -> Source:
        """A served source.

        Raises:
            NotFound: It is not served; the hint says what is.
        """
        found = self.sources().get(source_id)
        if found is None:
            raise NotFound(
                f"{self.names.id} serves no source '{source_id}'.", f"Served source sets: {self._sets_served()}."
            )
        return found

    def source_set(self, source_set: str) -> tuple[Source, ...]:
        """The sources of a served set.

        Raises:
            NotFound: It is not served; the hint says what is.
        """
        found = self.source_sets().get(source_set)
        if found is None:
            raise NotFound(f"Invalid source set: {source_set}", f"Served source sets: {self._sets_served()}.")
        return found

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

    def _sets_served(self) -> str:
        ranges = [f"{name} ({sources[0].id} to {sources[-1].id})" for name, sources in self.source_sets().items()]
        return ", ".join(ranges) or "none"
