"""ModelCard: says what its application serves. The Gateway asks it once per deploy.

It is the ingress of a model's application: an application needs one, and everything else in it may scale to zero.
It has no HTTP route.
"""

from core.catalogue.description import ModelDescription


class ModelCard:
    """Holds the description that the application's builder worked out."""

    def __init__(self, description: ModelDescription, *runners: object) -> None:
        # The runners are bound here only so that Serve deploys them with this application.
        self._description = description

    async def describe(self) -> ModelDescription:
        """What the application serves."""
        return self._description
