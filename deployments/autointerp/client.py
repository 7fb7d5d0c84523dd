"""AutointerpClient: the supported way to explain and score features from Python, by Serve handles and without HTTP.

    client = await AutointerpClient.connect("autointerp")        # the application's name
    explanation = await client.explain(ExplainTask("default", {}, record, choice), Deadline.after(60))

It is `Workers`, so whatever works with a workshop in its own process works with a cluster. The Gateway uses it too.
"""

from typing import Any, Self

from ray import serve

from core.autointerp.description import AutointerpDescription
from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.results import Explanation, Score
from core.autointerp.sampling import SamplerSettings
from core.autointerp.tasks import ExplainTask, ScoreTask
from core.deadline import Deadline
from core.errors import Unavailable
from deployments.client import asked, retried


class AutointerpClient:
    """Talks to one application. Cheap to keep; safe to share between tasks of one event loop."""

    def __init__(self, app_name: str, description: AutointerpDescription) -> None:
        self.app_name = app_name
        self.description = description
        self._explainer: Any = serve.get_deployment_handle("Explainer", app_name)
        self._scorer: Any = serve.get_deployment_handle("Scorer", app_name)

    @classmethod
    async def connect(cls, app_name: str) -> Self:
        """Asks the application what it has.

        Raises:
            Unavailable: There is no such application, or it is not up.
        """
        try:
            handle: Any = serve.get_deployment_handle("Bookkeeper", app_name)
            description = await handle.describe.remote()
        except Exception as error:
            raise Unavailable(f"The application '{app_name}' does not answer.", "See `serve status`.") from error
        return cls(app_name, description)

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        """See `core.autointerp.tasks.Workers`."""
        return await self._call(self._explainer.explain, deadline, task, deadline)

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        """See `core.autointerp.tasks.Workers`."""
        return await self._call(self._scorer.score, deadline, task, deadline)

    async def record(self, name: FeatureName, settings: SamplerSettings, deadline: Deadline) -> FeatureRecord:
        """A feature's examples from a cache of activations.

        Raises:
            NotFound: There is no cache of its source.
            InvalidRequest: There is no such latent, or it fires in too few texts.
        """
        return await self._call(self._explainer.record, deadline, name, settings)

    async def _call(self, method: Any, deadline: Deadline, *arguments: Any) -> Any:
        async with deadline.limit():
            return await retried(lambda: asked(method.remote(*arguments)))
