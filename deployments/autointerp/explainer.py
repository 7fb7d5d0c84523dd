"""Explainer: asks language models what features stand for. CPU only."""

from core.autointerp.results import Explanation
from core.autointerp.tasks import ExplainTask
from core.deadline import Deadline
from deployments.autointerp.worker import Worker


class Explainer(Worker):
    """Explains, hundreds of features at once."""

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        """See `core.autointerp.tasks.Workers`."""
        return await self.workshop.explain(task, deadline)
