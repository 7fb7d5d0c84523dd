"""Scorer: asks language models, or embeddings, how well explanations fit. CPU only."""

from core.autointerp.results import Score
from core.autointerp.tasks import ScoreTask
from core.deadline import Deadline
from deployments.autointerp.worker import Worker


class Scorer(Worker):
    """Scores, hundreds of explanations at once."""

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        """See `core.autointerp.tasks.Workers`."""
        return await self.workshop.score(task, deadline)
