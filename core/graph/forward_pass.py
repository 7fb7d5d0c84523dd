"""A forward pass: what comes after a prompt. Which tokens count as salient is `core.graph.targets`' definition."""

import torch

from core.engine.model import EagerModel
from core.graph.requests import ForwardPassAnswer, ForwardPassQuestion
from core.graph.targets import salient_tokens


@torch.inference_mode()
def forward_pass(model: EagerModel, question: ForwardPassQuestion) -> ForwardPassAnswer:
    """The likeliest next tokens. Touches the device, so it runs on the device's thread.

    Raises:
        InvalidRequest: The model can not read the prompt, or a number is out of range.
        RayscopeError: The model's logits are not numbers.
    """
    model.check_prompt(question.prompt)
    ids = torch.tensor([question.prompt], device=model.device)
    positions = torch.arange(ids.shape[1], device=model.device).unsqueeze(0)
    logits = model.next_logits(ids, positions, None, None, positions[0, -1:])[0]
    token_ids, probabilities = salient_tokens(logits, question.max_n_logits, question.desired_logit_prob)
    return ForwardPassAnswer(tuple(token_ids.tolist()), tuple(probabilities.tolist()))
