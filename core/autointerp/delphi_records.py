"""Our features and language models as delphi knows them, to run delphi's own explainers and scorers on them.

Our explainers and scorers use delphi's prompts only, because its own ask one question after the other and take any
failure for a bad answer. Running the originals on the same feature and model is how ours are compared with them.

    FeatureRecord -> latent_record -> delphi's LatentRecord
    LanguageModel -> delphi_client -> delphi's Client

Differences that are translated: delphi's quantiles count from 0, its silent examples have distance -1 where nobody
said, and its activations are shown rounded up to 0..10 of the feature's strongest.
"""

from typing import Any, Final

from core.autointerp.delphi_import import delphi_module
from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, ChatMessage, LanguageModel

_MAX_TOKENS: Final = 3000
_NO_DISTANCE: Final = -1.0


def latent_record(record: FeatureRecord, explanation: str = "") -> Any:
    """A feature as delphi's `LatentRecord`.

    Args:
        record: The feature.
        explanation: What its scorers are to score.
    """
    latents = delphi_module("latents.latents")
    name = record.name
    latent = latents.Latent(name.source if name else "feature", name.index if name else 0)
    strongest = max((example.maximum for example in (*record.train, *record.test)), default=1.0)
    return latents.LatentRecord(
        latent=latent,
        train=[_active(example, strongest) for example in record.train],
        test=[_active(example, strongest) for example in record.test],
        not_active=[_silent(example) for example in record.silent],
        explanation=explanation,
    )


def delphi_client(model: LanguageModel) -> Any:
    """A language model as delphi's `Client`, which raises the model's errors; what delphi makes of them is delphi's."""
    clients = delphi_module("clients.client")

    class Client(clients.Client):
        async def generate(self, prompt: list[dict[str, Any]], **options: Any) -> Any:
            messages = tuple(ChatMessage(message["role"], message["content"]) for message in prompt)
            reply = await model.ask(
                Ask(messages, options.get("max_tokens", _MAX_TOKENS), options.get("temperature"), options.get("seed"))
            )
            return clients.Response(text=reply.text)

    return Client(model.name)


def _active(example: Example, strongest: float) -> Any:
    import torch

    activations = torch.tensor(example.activations)
    return delphi_module("latents.latents").ActivatingExample(
        tokens=torch.arange(len(example.tokens)),
        activations=activations,
        normalized_activations=(activations * 10 / strongest).ceil().clamp(0, 10),
        str_tokens=list(example.tokens),
        quantile=max((example.quantile or 1) - 1, 0),
    )


def _silent(example: Example) -> Any:
    import torch

    return delphi_module("latents.latents").NonActivatingExample(
        tokens=torch.arange(len(example.tokens)),
        activations=torch.tensor(example.activations),
        str_tokens=list(example.tokens),
        distance=_NO_DISTANCE if example.distance is None else example.distance,
    )
