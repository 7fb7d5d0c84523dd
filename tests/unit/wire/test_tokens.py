import pytest
from pydantic import ValidationError

from core.wire.tokens import ApplyChatTemplateRequest, TokenizeRequest

MESSAGES = [{"role": "user", "content": "Hallo"}]


def test_template_variables_show_no_casing() -> None:
    body = {"messages": MESSAGES, "chatTemplateKwargs": {"enable_thinking": False}}
    request = ApplyChatTemplateRequest.model_validate(body)
    assert request.case == "camel"
    assert request.chat_template_kwargs == {"enable_thinking": False}
    assert ApplyChatTemplateRequest.model_validate({"messages": MESSAGES}).case is None


def test_defaults_are_not_shared_between_requests() -> None:
    first = ApplyChatTemplateRequest.model_validate({"messages": MESSAGES})
    first.chat_template_kwargs["enable_thinking"] = True
    assert ApplyChatTemplateRequest.model_validate({"messages": MESSAGES}).chat_template_kwargs == {}


def test_chat_is_loose_and_tokenize_is_strict() -> None:
    assert ApplyChatTemplateRequest.model_validate({"messages": MESSAGES, "addGenerationPrompt": 0})
    with pytest.raises(ValidationError):
        TokenizeRequest.model_validate({"model": "m", "text": "a", "prependBos": 1})
    with pytest.raises(ValidationError):
        TokenizeRequest.model_validate({"model": "m", "text": 1})
