"""Whether two servers gave the same answer: measuring is only fair if they did the same work."""

from typing import Any

TOLERANCE = 1e-3


def difference(left: Any, right: Any, path: str = "answer") -> str | None:
    """Where two JSON values first differ, in words; None if they agree.

    Numbers agree within `TOLERANCE`; everything else has to be equal, order of lists and set of keys included.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return f"{path}: keys {sorted(left)} against {sorted(right)}"
        pairs = [(f"{path}.{key}", left[key], right[key]) for key in left]
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return f"{path}: {len(left)} entries against {len(right)}"
        pairs = [(f"{path}[{place}]", *both) for place, both in enumerate(zip(left, right, strict=True))]
    elif isinstance(left, float) and isinstance(right, float):
        return None if abs(left - right) <= TOLERANCE else f"{path}: {left} against {right}"
    else:
        return None if left == right else f"{path}: {left!r} against {right!r}"
    return next((found for at, one, other in pairs if (found := difference(one, other, at)) is not None), None)
