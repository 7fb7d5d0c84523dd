"""What is publicly known about published sets: their names on Neuronpedia and the pages that describe them.

It goes into the metadata of graphs. A set that is not listed has a graph like any other; less is said about it.
The rows are those of Neuronpedia's graph server.
"""

from dataclasses import dataclass
from typing import Final

from core.graph.transcoders.location import SHORTCUTS, SetLocation

_HUB: Final = "https://huggingface.co"
_NEURONPEDIA: Final = "https://neuronpedia.org"


@dataclass(frozen=True, slots=True)
class Publication:
    """A set as it is published.

    Attributes:
        source_urls: Pages about it; none of a local one.
        model: Neuronpedia's id of its model; None if it is not there.
        source_set: Neuronpedia's id of the set; None if it is not there.
    """

    source_urls: tuple[str, ...] = ()
    model: str | None = None
    source_set: str | None = None


_ON_NEURONPEDIA: Final = {
    SHORTCUTS["gemma"]: ("gemma-2-2b", "gemmascope-transcoder-16k", ("google/gemma-scope-2b-pt-transcoders",)),
    "mwhanna/qwen3-4b-transcoders": ("qwen3-4b", "transcoder-hp", ("mwhanna/qwen3-4b-transcoders",)),
    "mntss/clt-gemma-2-2b-2.5M": ("gemma-2-2b", "clt-hp", ("mntss/clt-gemma-2-2b-2.5M",)),
    "mwhanna/gemma-scope-2-4b-it//transcoder_all/width_262k_l0_small_affine": (
        "gemma-3-4b-it",
        "gemmascope-transcoder-262k",
        ("mwhanna/gemma-scope-2-4b-it", "google/gemma-scope-2-4b-it"),
    ),
}


def publication_of(location: SetLocation) -> Publication:
    """What is known of a set."""
    name = location.name.partition("@")[0]
    known = _ON_NEURONPEDIA.get(name)
    if known is not None:
        model, source_set, repositories = known
        pages = (f"{_NEURONPEDIA}/{model}/{source_set}", *(f"{_HUB}/{repository}" for repository in repositories))
        return Publication(pages, model, source_set)
    return Publication(() if location.folder.repo is None else (f"{_HUB}/{location.folder.repo}",))
