"""Peer (a): the server that the seed describes. One process, FastAPI, SAELens and TransformerLens, one lock.

    request --lock--> tokenise, run_with_cache(stop_at_layer), encode the whole SAE, answer --unlock-->

It is written to be as quick as that design allows, so that nothing is won against a straw man: TransformerLens 3's
bridge (a tenth quicker here than `HookedTransformer`) caches only the hook points asked for, blocks behind the deepest
one do not run, top-k uses torch, cosines are one matrix product (`torch.cosine_similarity` takes ten times as long),
and replies are plain dictionaries. It listens to the paths and bodies of `benchmarks.workload` only and checks nothing.

    python -m benchmarks.peer PORT
"""

import asyncio
import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from benchmarks.computation import load_saes
from benchmarks.workload import MODEL, SOURCE_SET

_EPSILON = 1e-8


class Body(BaseModel):
    """Any of the four requests."""

    model_config = ConfigDict(extra="allow")


class Peer:
    """The model, the SAEs, and what the routes do with them."""

    def __init__(self) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self._model: Any = TransformerBridge.boot_transformers("gpt2", device="cpu")
        self._saes = load_saes()

    def single(self, asked: Any) -> dict[str, Any]:
        """One feature's activations. BOS is left out."""
        layer = int(asked.source.split("-")[0])
        ids, strings = self._tokens(asked.prompt)
        encoded = self._saes[layer].encode(self._capture(ids, [layer])[layer])
        values = encoded[0, 1:, int(asked.index)].tolist()
        largest = max(values)
        activation = {
            "values": values,
            "maxValue": largest,
            "maxValueIndex": values.index(largest),
            "dfaValues": None,
            "dfaMaxValue": None,
            "dfaTargetIndex": None,
        }
        return {"activation": activation, "tokens": strings[1:], "tokensIsSpecial": [False] * (len(strings) - 1)}

    def all(self, asked: Any) -> dict[str, Any]:
        """The features that fire most strongly."""
        layers = [int(source.split("-")[0]) for source in asked.selectedSources]
        ids, strings = self._tokens(asked.prompt)
        captured = self._capture(ids, layers)
        found: list[dict[str, Any]] = []
        for layer in layers:
            encoded = self._saes[layer].encode(captured[layer])[0]
            encoded[0] = 0
            best = torch.topk(encoded.amax(0), asked.numResults)
            for index, row in zip(best.indices.tolist(), encoded[:, best.indices].T.tolist(), strict=True):
                largest = max(row)
                found.append(
                    {
                        "source": f"{layer}-{SOURCE_SET}",
                        "index": index,
                        "values": row,
                        "sumValues": 0.0,
                        "maxValue": largest,
                        "maxValueIndex": row.index(largest),
                        "dfaValues": None,
                        "dfaTargetIndex": None,
                        "dfaMaxValue": None,
                    }
                )
        found.sort(key=lambda feature: -feature["maxValue"])
        return {"activations": found[: asked.numResults], "tokens": strings, "counts": None}

    def topk_by_token(self, asked: Any) -> dict[str, Any]:
        """The strongest features at each token. BOS is left out."""
        layer = int(asked.source.split("-")[0])
        ids, strings = self._tokens(asked.prompt)
        best = torch.topk(self._saes[layer].encode(self._capture(ids, [layer])[layer])[0], asked.topK, dim=-1)
        indexes, values = best.indices.tolist(), best.values.tolist()
        results = [
            {
                "tokenPosition": place,
                "token": strings[place],
                "isSpecial": False,
                "topFeatures": [
                    {"featureIndex": index, "activationValue": value}
                    for index, value in zip(indexes[place], values[place], strict=True)
                ],
            }
            for place in range(1, len(strings))
        ]
        return {"results": results, "tokens": strings[1:]}

    def cossim(self, asked: Any) -> dict[str, Any]:
        """Features with near decoder rows."""
        decoder = self._saes[int(asked.source.split("-")[0])].W_dec
        query = decoder[asked.feature["index"]]
        norms = (decoder.norm(dim=-1) * query.norm()).clamp(min=_EPSILON)
        best = torch.topk((decoder @ query) / norms, asked.numResults)
        near = [
            {"feature": {"model": MODEL, "source": asked.source, "index": index}, "cosineSimilarity": cosine}
            for index, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"feature": asked.feature, "topkDecoderCossimFeatures": near}

    def _tokens(self, prompt: str) -> tuple[torch.Tensor, list[str]]:
        ids = self._model.to_tokens(prompt, prepend_bos=True)
        return ids, self._model.tokenizer.batch_decode([[token] for token in ids[0].tolist()])

    def _capture(self, ids: torch.Tensor, layers: list[int]) -> dict[int, torch.Tensor]:
        hooks = {layer: f"blocks.{layer}.hook_resid_pre" for layer in layers}
        _, cache = self._model.run_with_cache(ids, names_filter=list(hooks.values()), stop_at_layer=max(layers) + 1)
        return {layer: cache[hook] for layer, hook in hooks.items()}


def build_app(peer: Peer) -> FastAPI:
    """The server. Torch runs on its event loop, under the one lock."""
    app = FastAPI()
    lock = asyncio.Lock()

    def add(path: str, answer: Any) -> None:
        async def ask(body: Body) -> dict[str, Any]:
            async with lock:
                with torch.inference_mode():
                    return answer(body)

        app.post(path, response_model=None)(ask)

    add("/v1/activation/single", peer.single)
    add("/v1/activation/all", peer.all)
    add("/v1/activation/topk-by-token", peer.topk_by_token)
    add("/v1/util/sae-topk-by-decoder-cossim", peer.cossim)
    return app


def main() -> None:
    """Serves on the port given."""
    uvicorn.run(build_app(Peer()), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
