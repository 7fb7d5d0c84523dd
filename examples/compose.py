"""A deployment of your own that composes Rayscope: which language is a text in, judged by what fires inside the model.

It reaches the demo by handles, not by HTTP. Run it next to a running cluster with

    serve run examples.compose:app --name languages --route-prefix /languages

and ask

    curl localhost:5002/languages -d '{"text": "Le chat dort.", "features": {"French": 17}, "source": "2-res-demo"}'
"""

from typing import Any

from ray import serve
from starlette.requests import Request

from deployments.client import ModelClient


@serve.deployment
class LanguageJudge:
    """Scores a text by the mean activation of one feature per language."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._client: ModelClient | None = None

    async def judge(self, text: str, source: str, features: dict[str, int]) -> dict[str, float]:
        """Mean activation over the text of each named feature."""
        # Applications come up in any order, so the model is looked for when it is first needed.
        self._client = self._client or await ModelClient.connect(self._app_name)
        scores: dict[str, float] = {}
        for name, index in features.items():
            answer = await self._client.feature(text, source, index)
            scores[name] = float(answer.values.mean())
        return scores

    async def __call__(self, request: Request) -> dict[str, Any]:
        """The same over HTTP."""
        body = await request.json()
        return await self.judge(body["text"], body["source"], body["features"])


app = LanguageJudge.bind("rayscope-demo")
