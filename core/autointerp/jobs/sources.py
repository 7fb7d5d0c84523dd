"""Source ids as jobs read them: layer and source set, and the SAE without learned directions beside a true one."""

import re
from typing import Final

from core.errors import InvalidRequest

_RANDOM_SET: Final = "random-"
_SOURCE: Final = re.compile(r"(\d+)-(.+)")


def split_source(source: str) -> tuple[int, str]:
    """Layer and source set of a source id.

    Raises:
        InvalidRequest: It is none.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise InvalidRequest(f"'{source[:80]}' is no source id.", "Source ids look like 7-res-jb.")
    return int(match[1]), match[2]


def random_source(source: str) -> str:
    """The source with random directions beside a true one."""
    layer, source_set = split_source(source)
    return f"{layer}-{_RANDOM_SET}{source_set}"


def is_random(source: str) -> bool:
    """Whether a source is such a one."""
    return split_source(source)[1].startswith(_RANDOM_SET)


def true_source(source: str) -> str:
    """The true source beside a random one; itself if it is true."""
    layer, source_set = split_source(source)
    return f"{layer}-{source_set.removeprefix(_RANDOM_SET)}"
