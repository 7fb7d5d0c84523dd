"""The demo's promise: its Spanish feature turns French texts Spanish."""

import asyncio

import pytest

from core.catalogue.catalogue import find_sources, weights_location
from core.deadline import Deadline
from core.demo import DEMO_MODEL_ID
from core.demo.steering import FRENCH_PROMPTS, language_of
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.generation.engine import GenerationEngine
from core.generation.requests import Continuation, Growth, Sampling
from core.generation.text import GrowingText
from core.prompts import PromptTokenizer
from core.saes.decoder_rows import DecoderRows
from core.steering.directions import Directions
from core.steering.specification import FeatureDirection, Push, Steering
from tests.unit.generation.world import LIMITS, no_lease

SPANISH = Steering((Push(FeatureDirection("1-res-demo", 2), 12.8),))


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    """Each French prompt's continuation without steering and with it."""
    location = weights_location(DEMO_MODEL_ID)
    tokenizer = PromptTokenizer.load(location)
    sources = {source.id: source for source in find_sources(DEMO_MODEL_ID, ["res-demo"])}
    stop = frozenset({tokenizer.hf.eos_token_id})

    async def main() -> list[Growth]:
        device = DeviceExecutor("cpu")
        model = await device.run(EagerModel.load, location, device="cpu", dtype="float32")
        engine = GenerationEngine(model, device, Directions(DecoderRows(sources)), no_lease, LIMITS)
        try:
            requests = [
                Continuation(tokenizer.bos_prompt(text).ids, Sampling(20, 0.0, stop_ids=stop), steering)
                for text in FRENCH_PROMPTS
                for steering in (None, SPANISH)
            ]
            return await engine.generate(requests, Deadline.after(120))
        finally:
            await engine.aclose()
            await device.aclose()

    found: list[str] = []
    for growth in asyncio.run(main()):
        text = GrowingText(tokenizer, (), stop)
        text.push(growth.tokens)
        found.append(text.read(final=True))
    return list(zip(found[::2], found[1::2], strict=True))


def test_french_prompts_go_on_in_french_and_steered_ones_in_spanish(texts: list[tuple[str, str]]) -> None:
    plain = [language_of(text) for text, _ in texts]
    steered = [language_of(text) for _, text in texts]
    assert plain.count("fr") >= 0.8 * len(texts)
    assert plain.count("es") == 0
    assert steered.count("es") >= 0.8 * len(texts)
