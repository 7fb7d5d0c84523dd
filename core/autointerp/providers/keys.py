"""A provider's key, as a value that shows itself to nobody by accident.

Its `repr` and `str` do not have it, so that no log line, traceback or validation error can; only `header` has, and
`hidden_in` takes it out of texts that the provider wrote, which like to repeat it. What stands for a key in names and
accounts is its `fingerprint`.

Deliberately not here: storing keys. A job keeps a reference to one.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from core.errors import InvalidRequest

_FORM: Final = re.compile(r"[!-~]+")
_LOOKS_LIKE_ONE: Final = re.compile(r"\b(sk|pk|rk)-[\w*.…-]{3,}")
_HIDDEN: Final = "[key]"


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key; empty for a provider that asks for none.

    Raises:
        InvalidRequest: It has characters that can not be sent in a header.
    """

    value: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.value and not _FORM.fullmatch(self.value):
            raise InvalidRequest(
                "The provider key has characters that no key has.", "Send it as the provider shows it, without spaces."
            )

    def __str__(self) -> str:
        return _HIDDEN

    @property
    def header(self) -> dict[str, str]:
        """The header that sends it."""
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}

    @property
    def fingerprint(self) -> str:
        """Names it without telling it: 12 hexadecimal digits."""
        return hashlib.sha256(self.value.encode()).hexdigest()[:12]

    def hidden_in(self, text: str) -> str:
        """A text without it, and without what looks like a part of it."""
        if self.value:
            text = text.replace(self.value, _HIDDEN)
        return _LOOKS_LIKE_ONE.sub(_HIDDEN, text)
