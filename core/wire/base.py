"""What every body on the wire shares: two spellings per name, and a reply in the spelling of the request.

The peer's routes speak camelCase, its older clients snake_case, and both still call us. So a field has one Python name
and one camelCase alias, either of which a request may use, and a request remembers which of the two it was written in:

    {"sourceSet": ...}   -> request.case == "camel"  |
    {"source_set": ...}  -> request.case == "snake"  |-> reply_case(...) -> render(response, case) -> bytes
    {"prompt": ...}      -> request.case is None     |

Only keys that a model declares count, and only those whose two spellings differ; a template variable such as
`enable_thinking` tells nothing. Unknown keys are ignored, as the peer ignores them.

Deliberately not here: HTTP, and rules that need to know what the cluster serves.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, cast

from pydantic import (
    AllowInfNan,
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Strict,
    model_validator,
)
from pydantic.alias_generators import to_camel

Case: TypeAlias = Literal["camel", "snake"]

# Accepts 1 and 1.0; refuses true, "1", NaN and the infinities (Python's JSON reader lets the last three through).
Number: TypeAlias = Annotated[float, Strict(), AllowInfNan(False)]

# Python clients generated from the snake_case documents read snake_case replies only, and on half of the routes their
# requests hold no key that shows it.
_SNAKE_CASE_CLIENT: Final = re.compile(r"OpenAPI-Generator/1\.(?:\d|10)\.\d+/python")


class WireModel(BaseModel):
    """A JSON object of the wire.

    Attributes:
        wire_case: The casing this body always has, whatever the request's; None follows the request.
        drops_nulls: Whether this body leaves null fields out.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    wire_case: ClassVar[Case | None] = None
    drops_nulls: ClassVar[bool] = False


class RequestModel(WireModel):
    """A body that clients send; it remembers the casing of its keys."""

    spellings: ClassVar[Mapping[str, Case]] = {}

    _case: Case | None = PrivateAttr(default=None)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Note which keys of this model give a casing away."""
        super().__pydantic_init_subclass__(**kwargs)
        spellings: dict[str, Case] = {}
        for name, field in cls.model_fields.items():
            if field.alias is not None and field.alias != name:
                spellings[name] = "snake"
                spellings[field.alias] = "camel"
        cls.spellings = spellings

    @model_validator(mode="wrap")
    @classmethod
    def _remember_case(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        request = handler(data)
        if isinstance(data, Mapping):
            keys = cast("Mapping[str, object]", data)
            own: Iterator[Case] = (cls.spellings[key] for key in keys if key in cls.spellings)
            case: Case | None = next(chain(own, request._nested_cases()), None)
            request._case = case
        return request

    def _nested_cases(self) -> Iterator[Case]:
        for _, value in self:
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            # A list is of models or of scalars, never of both, so its first item says whether to look further.
            for item in items if items and isinstance(items[0], RequestModel) else ():
                if isinstance(item, RequestModel) and item.case is not None:
                    yield item.case

    @property
    def case(self) -> Case | None:
        """The casing of the first key that shows one, outer keys before nested ones; None when no key does."""
        return self._case


def reply_case(sent: Case | None, user_agent: str | None, default: Case) -> Case:
    """Choose the casing of a reply.

    Args:
        sent: The request's own `case`.
        user_agent: The request's `User-Agent` header. It decides only when the body does not: the published Python
            clients up to 1.10 read nothing but snake_case.
        default: The cluster's `wire_case`.
    """
    if sent is not None:
        return sent
    if user_agent is not None and _SNAKE_CASE_CLIENT.fullmatch(user_agent):
        return "snake"
    return default


def render(response: WireModel, case: Case) -> bytes:
    """Serialise a response; NaN and the infinities become null.

    Args:
        response: The body. Its class may insist on a casing of its own (`wire_case`).
        case: The casing to use otherwise.
    """
    chosen = response.wire_case or case
    return response.model_dump_json(by_alias=chosen == "camel", exclude_none=response.drops_nulls).encode()
