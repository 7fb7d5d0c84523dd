"""The shipped artefacts, loaded once."""

import json

import pytest
import torch

from core.demo import ARTEFACTS, corpus
from core.demo.activations import collect
from core.demo.concepts import label_all
from core.demo.model import encode_documents, load_model
from core.demo.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(ARTEFACTS / "model")


@pytest.fixture(scope="session")
def model():
    with torch.no_grad():
        return load_model(ARTEFACTS / "model")


@pytest.fixture(scope="session")
def measured():
    return json.loads((ARTEFACTS / "measurements.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def texts():
    """Documents that neither the training nor the measurement drew."""
    return list(corpus.documents(4242, 400))


@pytest.fixture(scope="session")
def rows(tokenizer, texts):
    return encode_documents(tokenizer, [document.text for document in texts])


@pytest.fixture(scope="session")
def seen(model, rows):
    return collect(model, rows, ("resid_post", "z", "mlp_in", "mlp_out"))


@pytest.fixture(scope="session")
def labels(tokenizer, texts, rows, seen):
    return label_all(tokenizer, texts, seen.row, seen.position, [len(row) for row in rows])
