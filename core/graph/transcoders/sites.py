"""TransformerLens names of the places that transcoders read and write, and what they are here."""

from typing import Final

from core.errors import InvalidRequest
from core.graph.transcoders.transcoder import ReadSite, WriteSite

# `hook_mlp_in` is the residual before the norm: TransformerLens copies it there for each path that reads it.
_READS: Final[dict[str, ReadSite]] = {
    "mlp.hook_in": "mlp_in",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",
    "ln2.hook_normalized": "mlp_normalized",
}
_WRITES: Final[dict[str, WriteSite]] = {"mlp.hook_out": "mlp_out", "hook_mlp_out": "mlp_contribution"}


def read_site(hook: str) -> ReadSite:
    """Where a hook reads; its name comes without `blocks.{i}.`.

    Raises:
        InvalidRequest: Transcoders that read there can not be attributed.
    """
    if hook not in _READS:
        raise InvalidRequest(
            f"Transcoders that read at '{hook}' can not be traced.", f"They read at one of {', '.join(_READS)}."
        )
    return _READS[hook]


def write_site(hook: str) -> WriteSite:
    """Where a hook writes; its name comes without `blocks.{i}.`.

    Raises:
        InvalidRequest: Transcoders that write there can not be attributed.
    """
    if hook not in _WRITES:
        raise InvalidRequest(
            f"Transcoders that write to '{hook}' can not be traced.", f"They write to one of {', '.join(_WRITES)}."
        )
    return _WRITES[hook]
