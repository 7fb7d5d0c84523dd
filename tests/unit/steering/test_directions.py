"""Features become decoder rows: SAELens' own, read without loading the SAE wherever the file allows it."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from core.catalogue.sources import Source
from core.errors import NotFound
from core.questions import Floats
from core.saes.decoder_rows import DecoderRows
from core.saes.loading import load_sae
from core.steering.directions import Directions, written_at
from core.steering.specification import FeatureDirection, HookPlace, Method, Push, Steering
from tests.unit.saes.kinds import KINDS, saved

_SLICED = {"standard", "jumprelu", "gated"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_row_is_what_the_loaded_sae_holds(kind: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path)
    whole: list[int] = []

    async def read_whole(source: Source, index: int) -> Floats:
        whole.append(index)
        return load_sae(source, dtype="float32").sae.W_dec[index].numpy()

    row = asyncio.run(DecoderRows({source.id: source}, read_whole).row(source.id, 5))
    np.testing.assert_allclose(row, load_sae(source, dtype="float32").sae.W_dec[5].numpy(), atol=1e-6)
    assert whole == ([] if source.architecture in _SLICED else [5])


def test_a_transcoder_is_steered_where_it_writes(tmp_path: Path) -> None:
    source = saved("transcoder", tmp_path)
    assert source.hook_name_out is not None
    place = written_at(source)
    assert place.name == source.hook_name_out
    assert place.name != source.hook_name


def test_features_become_interventions_in_the_order_of_the_request(tmp_path: Path) -> None:
    source = saved("jumprelu", tmp_path)
    directions = Directions(DecoderRows({source.id: source}))
    pushes = tuple(Push(FeatureDirection(source.id, index), c) for index, c in ((3, 2.0), (1, -1.0)))
    found = asyncio.run(directions.resolve(Steering(pushes, Method.SIMPLE_ADDITIVE)))
    rows = load_sae(source, dtype="float32").sae.W_dec.numpy()
    for one, push in zip(found, pushes, strict=True):
        assert one.place == HookPlace(1, "resid_post")
        assert isinstance(push.direction, FeatureDirection)
        np.testing.assert_allclose(one.operator.write, rows[push.direction.index], atol=1e-6)
        assert one.operator.coefficients[0] == push.coefficient


def test_a_source_that_is_not_served_is_named() -> None:
    steering = Steering((Push(FeatureDirection("1-nowhere", 0), 1.0),))
    with pytest.raises(NotFound, match="1-nowhere"):
        asyncio.run(Directions(DecoderRows({})).resolve(steering))
