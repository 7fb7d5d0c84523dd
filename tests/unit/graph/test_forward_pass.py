import pytest
import torch

from core.errors import InvalidRequest
from core.graph.forward_pass import forward_pass
from core.graph.requests import ForwardPassQuestion

from .architectures import VOCAB_SIZE, eager_model

PROMPT = (0, 17, 42, 5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("prompt", [PROMPT, (3,)])
def test_the_likeliest_tokens_are_the_models(name: str, prompt: tuple[int, ...]) -> None:
    with torch.no_grad():
        logits = eager_model(name).module(input_ids=torch.tensor([prompt])).logits[0, -1]
    wanted = logits.softmax(-1).sort(descending=True)
    answer = forward_pass(eager_model(name), ForwardPassQuestion(prompt, 10, 0.95))
    n = min(10, int((wanted.values.cumsum(-1) < 0.95).sum()) + 1)
    assert answer.token_ids == tuple(wanted.indices[:n].tolist())
    assert answer.probabilities == pytest.approx(wanted.values[:n].tolist(), rel=1e-5)


def test_there_is_one_token_at_least_and_never_more_than_the_vocabulary() -> None:
    model = eager_model("llama")
    assert len(forward_pass(model, ForwardPassQuestion(PROMPT, 10, 0.0)).token_ids) == 1
    assert len(forward_pass(model, ForwardPassQuestion(PROMPT, 1000, 2.0)).token_ids) == VOCAB_SIZE


def test_a_token_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no embedding"):
        forward_pass(eager_model("llama"), ForwardPassQuestion((0, VOCAB_SIZE), 10, 0.95))
