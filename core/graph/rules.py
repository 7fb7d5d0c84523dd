"""What graph viewers demand of a document beyond its JSON schema.

A document can be valid and still crash Neuronpedia's viewer or circuit-tracer's, or be refused when it is saved. These
rules were read from their sources. A pipeline checks names before it computes anything and the document before it
sends it anywhere; both cost next to nothing, as no rule looks at every link's text.
"""

import re
from collections import Counter
from typing import Any, Final

import numpy as np

from core.errors import InvalidRequest
from core.graph.document import LOGIT, GraphDocument

_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]+")
_OUTPUT: Final = re.compile(r'".*" \(p=-?\d+(\.\d+)?(e[+-]?\d+)?\)', re.DOTALL)


def check_name(field: str, name: str) -> None:
    """Refuses a slug or scan under which Neuronpedia could not save the graph.

    Raises:
        InvalidRequest: It is empty or holds other characters than letters, digits, `_`, `.` and `-`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{field} {name!r} cannot name a graph.", "Use letters, digits, '_', '.' and '-' only.")


def check(document: GraphDocument) -> None:
    """Refuses a document that viewers cannot open or save.

    Raises:
        InvalidRequest: What is wrong first.
    """
    for field in ("slug", "scan"):
        check_name(field, str(document.metadata.get(field, "")))
    for node_id, times in Counter(node["node_id"] for node in document.nodes).items():
        if times > 1:
            raise InvalidRequest(f"{times} nodes have the id {node_id}.", "Every node needs its own node_id.")
    last = len(document.metadata.get("prompt_tokens", ())) - 1
    for node in document.nodes:
        position, is_logit = node["ctx_idx"], node["feature_type"] == LOGIT
        if not 0 <= position <= last or (is_logit and position != last):
            raise InvalidRequest(
                f"Node {node['node_id']} stands at position {position} of a prompt of {last + 1} tokens.",
                "prompt_tokens needs a text for every position, and logits stand at the last.",
            )
        if is_logit and not _OUTPUT.search(node["clerp"]):
            raise InvalidRequest(
                f"Viewers cannot read the label of logit {node['node_id']}: {node['clerp']!r}.",
                'A logit is labelled as in: Output "token" (p=0.123).',
            )
    if not np.isfinite(document.weights).all():
        raise InvalidRequest("The weight of a link is not a finite number.", "JSON has no such numbers.")


def check_layout(document: GraphDocument) -> None:
    """Refuses a document that viewers open but cannot lay out. It is a graph all the same, for whoever needs no viewer.

    Raises:
        InvalidRequest: Nothing of it is above layer 0.
    """
    if not any(node["feature_type"] != LOGIT and _number(node["layer"]) > 0 for node in document.nodes):
        raise InvalidRequest(
            "The graph has no feature or error above layer 0, and viewers cannot lay out such a graph.",
            "Raise node_threshold and edge_threshold; a model of a single layer has no such graph.",
        )


def _number(layer: Any) -> int:
    """A layer's number, -1 for the tokens' layer."""
    return int(layer) if str(layer).isdecimal() else -1
