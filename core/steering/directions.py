"""From what a request names to what an engine applies: features become decoder rows, pushes become interventions."""

from collections.abc import Mapping

from core.catalogue.sources import Source
from core.saes.decoder_rows import DecoderRows
from core.steering.operators import Intervention, Operator
from core.steering.specification import FeatureDirection, HookPlace, Steering, VectorDirection, parse_hook


def written_at(source: Source) -> HookPlace:
    """Where a feature of `source` is steered: at the hook point that its decoder writes.

    For an SAE that is the hook point that it reads. A transcoder predicts the output of the layer whose input it reads;
    its decoder rows are directions of that output.

    Raises:
        InvalidRequest: Steering can not write that hook point.
    """
    return parse_hook(source.hook_name_out or source.hook_name)


def place_of(direction: FeatureDirection | VectorDirection, sources: Mapping[str, Source]) -> HookPlace:
    """Where a direction is written; `sources` holds that of every feature."""
    return written_at(sources[direction.source]) if isinstance(direction, FeatureDirection) else direction.hook


class Directions:
    """Resolves the steering of requests. Lives on one event loop."""

    def __init__(self, rows: DecoderRows) -> None:
        self._rows = rows

    async def resolve(self, steering: Steering) -> tuple[Intervention, ...]:
        """The interventions of one continuation, in the request's order.

        Raises:
            NotFound: A feature's source is not served by this replica.
            InvalidRequest: A direction can not be used; see `Operator.of`.
            Unavailable: The weights of a source could not be had.
        """
        found: list[Intervention] = []
        for push in steering.pushes:
            direction = push.direction
            if isinstance(direction, FeatureDirection):
                place = written_at(self._rows.source(direction.source))
                vector = await self._rows.row(direction.source, direction.index)
            else:
                place, vector = direction.hook, direction.vector
            operator = Operator.of(
                steering.method, vector, push.coefficient, normalize=steering.normalize, at_least=push.at_least
            )
            found.append(Intervention(place, operator))
        return tuple(found)
