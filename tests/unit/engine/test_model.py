"""What loading does to a model must not change what it computes."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation

from core.engine.model import fuse_activations


def test_the_fused_activation_computes_the_same_function() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, activation_function="gelu_new")
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 64, (2, 12))
    with torch.inference_mode():
        plain = model(ids).logits
        fused = fuse_activations(model)(ids).logits
    assert not any(isinstance(module, NewGELUActivation) for module in model.modules())
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
