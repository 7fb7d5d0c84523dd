"""What is asked: five routes, each with one body per prompt, the same for every server and every engine.

Prompts have 32 tokens, BOS included, as in the figures published for Neuronpedia's server. All of them differ, and so
does the feature asked about, so that no cache can answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

MODEL = "gpt2-small"
SOURCE_SET = "res-jb"
LAYERS = 12
LAYER = 7
D_SAE = 24_576
PROMPT_TOKENS = 32
PROMPTS = 64
RESULTS = 25
TOP_K = 5

Kind = Literal["single", "all", "topk-by-token", "cossim"]
Body = dict[str, Any]


def source_of(layer: int) -> str:
    """Source id of a layer."""
    return f"{layer}-{SOURCE_SET}"


@dataclass(frozen=True, slots=True)
class Route:
    """One measured request.

    Attributes:
        name: What the results call it.
        kind: Which computation it is.
        path: Where it is asked.
        layers: Layers of the sources asked about; the deepest one is where the forward pass may stop.
    """

    name: str
    kind: Kind
    path: str
    layers: tuple[int, ...]

    @property
    def sources(self) -> list[str]:
        """Source ids asked about."""
        return [source_of(layer) for layer in self.layers]

    def body(self, number: int, prompt: str) -> Body:
        """The body of request `number`."""
        index = feature_index(number)
        source = self.sources[0]
        match self.kind:
            case "single":
                return {"prompt": prompt, "model": MODEL, "source": source, "index": str(index)}
            case "all":
                return {
                    "prompt": prompt,
                    "model": MODEL,
                    "sourceSet": SOURCE_SET,
                    "selectedSources": self.sources,
                    "sortByTokenIndexes": [],
                    "ignoreBos": True,
                    "numResults": RESULTS,
                }
            case "topk-by-token":
                return {"prompt": prompt, "model": MODEL, "source": source, "topK": TOP_K, "ignoreBos": True}
            case "cossim":
                feature = {"model": MODEL, "source": source, "index": index}
                return {"feature": feature, "model": MODEL, "source": source, "numResults": RESULTS}

    def bodies(self, prompts: Sequence[str]) -> list[Body]:
        """One body per prompt."""
        return [self.body(number, prompt) for number, prompt in enumerate(prompts)]


_ROUTES = (
    Route("single", "single", "/v1/activation/single", (LAYER,)),
    Route("all, 2 sources", "all", "/v1/activation/all", (LAYER - 1, LAYER)),
    Route("all, 12 sources", "all", "/v1/activation/all", tuple(range(LAYERS))),
    Route("topk-by-token", "topk-by-token", "/v1/activation/topk-by-token", (LAYER,)),
    Route("cossim", "cossim", "/v1/util/sae-topk-by-decoder-cossim", (LAYER,)),
)
ROUTES = {route.name: route for route in _ROUTES}


def feature_index(number: int) -> int:
    """The feature that request `number` asks about."""
    return (number * 379 + 17) % D_SAE


def make_prompts(tokenizer: Any, words: Sequence[str], count: int = PROMPTS) -> list[str]:
    """Different texts of exactly `PROMPT_TOKENS` tokens once BOS is put first."""
    draw = random.Random(0)
    prompts: list[str] = []
    while len(prompts) < count:
        chosen: list[str] = []
        length = 0
        while length < PROMPT_TOKENS - 1:
            chosen.append(draw.choice(words))
            length = len(tokenizer(" ".join(chosen)).input_ids)
        if length == PROMPT_TOKENS - 1:
            prompts.append(" ".join(chosen))
    return prompts
