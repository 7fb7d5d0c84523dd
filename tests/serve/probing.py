"""Whatever a schema allows, sent to a server: none of it may be answered by an error of the server's."""

from collections.abc import Callable, Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import status_code_conformance


def probe(url: str, document: Mapping[str, Any], wanted: Callable[[str], bool], max_examples: int = 25) -> int:
    """Sends inputs to all operations of some paths, and says how many.

    Args:
        url: Where the server is.
        document: Its OpenAPI document.
        wanted: Chooses among its paths.
        max_examples: Inputs per operation.
    """
    sent = 0
    paths = {path: verbs for path, verbs in document["paths"].items() if wanted(path)}
    for found in schemathesis.openapi.from_dict(dict(document) | {"paths": paths}).get_all_operations():
        operation: Any = found.ok()

        @settings(
            max_examples=max_examples,
            deadline=None,
            derandomize=True,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            nonlocal sent
            sent += 1
            response = case.call(base_url=url, timeout=60)
            assert response.status_code < 500 or case.path == "/ready", (case.path, response.text, case.body)
            status_code_conformance(None, response, case)  # pyright: ignore[reportArgumentType]

        send()
    return sent
