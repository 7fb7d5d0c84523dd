"""The places that transcoders read and write, and their TransformerLens names, without `blocks.{i}.`."""

from collections.abc import Mapping
from typing import Final

from core.errors import InvalidRequest
from core.graph.transcoders.transcoder import ReadSite, WriteSite

READS: Final[Mapping[ReadSite, str]] = {
    "mlp_in": "mlp.hook_in",
    "resid_mid": "hook_resid_mid",
    "mlp_normalized": "ln2.hook_normalized",
}
WRITES: Final[Mapping[WriteSite, str]] = {"mlp_out": "mlp.hook_out", "mlp_contribution": "hook_mlp_out"}

# `hook_mlp_in` is the residual before the norm: TransformerLens copies it there for each path that reads it.
_READ_SITES: Final[dict[str, ReadSite]] = {**{hook: site for site, hook in READS.items()}, "hook_mlp_in": "resid_mid"}
_WRITE_SITES: Final[dict[str, WriteSite]] = {hook: site for site, hook in WRITES.items()}


def read_site(hook: str) -> ReadSite:
    """Where a hook reads; its name comes without `blocks.{i}.`.

    Raises:
        InvalidRequest: Transcoders that read there can not be attributed.
    """
    if hook not in _READ_SITES:
        raise InvalidRequest(
            f"Transcoders that read at '{hook}' can not be traced.", f"They read at one of {', '.join(_READ_SITES)}."
        )
    return _READ_SITES[hook]


def write_site(hook: str) -> WriteSite:
    """Where a hook writes; its name comes without `blocks.{i}.`.

    Raises:
        InvalidRequest: Transcoders that write there can not be attributed.
    """
    if hook not in _WRITE_SITES:
        raise InvalidRequest(
            f"Transcoders that write to '{hook}' can not be traced.", f"They write to one of {', '.join(_WRITE_SITES)}."
        )
    return _WRITE_SITES[hook]
