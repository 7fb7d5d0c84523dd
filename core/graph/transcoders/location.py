"""From the name of a transcoder set to what lies where, without reading weights.

    plt-demo                             the set that Rayscope ships, for the model rayscope-demo
    gemma, llama                         circuit-tracer's shortcuts
    ./some/folder                        a local folder: circuit-tracer's, with config.yaml, or SAELens' (`saelens`)
    ./some/folder/config.yaml            the same
    owner/name, owner/name//sub@main     a Hugging Face repository with config.yaml, at its root or in a folder of it
    release, release//variant            a release of SAELens' directory (`saelens`)

What `config.yaml` says: `model_kind`, `feature_input_hook` and `feature_output_hook` as circuit-tracer has them;
`scan`, the set's name; `transcoders`, a list of files, one per layer. `activation: topk` with `k` counts for every set;
in circuit-tracer a local one silently becomes ReLU.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.demo import ARTEFACTS
from core.errors import InvalidRequest, NotFound
from core.graph.transcoders.place import Place
from core.graph.transcoders.sites import read_site, write_site
from core.graph.transcoders.transcoder import ReadSite, WriteSite

DEMO_SET: Final = "plt-demo"
SHORTCUTS: Final = {"gemma": "mntss/gemma-scope-transcoders", "llama": "mntss/transcoder-Llama-3.2-1B"}
_CONFIG: Final = "config.yaml"
_KINDS: Final = {"transcoder_set": False, "cross_layer_transcoder": True}
_REPOSITORY: Final = re.compile(r"(?P<repo>[^/@]+/[^/@]+)(//?(?P<folder>[^@]+?)/?)?(@(?P<revision>.+))?")


@dataclass(frozen=True, slots=True)
class SetLocation:
    """Where a set's files are and what they mean.

    Attributes:
        name: What it is called on the wire (`scan`).
        folder: The folder of its files.
        cross_layer: Whether features write to later layers, too.
        reads: Where it reads.
        writes: Where it writes.
        files: One file per layer, where they are listed; empty where they follow circuit-tracer's names.
        k: Features per position of a TopK set; None for ReLU and JumpReLU.
        encoder_by_columns: Whether its format stores encoders `[d, F]`; npz and lower-case names say so themselves.
    """

    name: str
    folder: Place
    cross_layer: bool
    reads: ReadSite
    writes: WriteSite
    files: tuple[Place, ...] = ()
    k: int | None = None
    encoder_by_columns: bool = False

    def layer_files(self, layer: int) -> tuple[Place, ...]:
        """The files of a layer.

        Raises:
            NotFound: The set lists no such layer.
        """
        if self.files:
            if layer >= len(self.files):
                raise NotFound(f"{self.name} has no layer {layer}.", f"It lists {len(self.files)} layers.")
            return (self.files[layer],)
        names = (f"W_enc_{layer}", f"W_dec_{layer}") if self.cross_layer else (f"layer_{layer}",)
        return tuple(self.folder.inside(f"{name}.safetensors") for name in names)


def locate(name: str) -> SetLocation:
    """Finds a set by its name.

    Raises:
        NotFound: There is nothing of that name, or no `config.yaml` in it.
        InvalidRequest: Its `config.yaml` can not be followed.
        Unavailable: The hub can not be asked, and the cache does not know it.
    """
    if name == DEMO_SET:
        return _described(Place(str(ARTEFACTS / DEMO_SET)))
    name = SHORTCUTS.get(name, name)
    if Path(name).is_dir():
        return _local(Path(name))
    if Path(name).name == _CONFIG and Path(name).is_file():
        return _local(Path(name).parent)
    match = _REPOSITORY.fullmatch(name)
    if match and not name.startswith((".", "/", "~")):
        return _described(Place(match["folder"] or "", match["repo"], match["revision"]))
    if "/" in name.partition("//")[0] or name.startswith((".", "~")):
        raise NotFound(f"There is no folder {name}.", "A local set is named by its folder, a hub one by owner/name.")
    from core.graph.transcoders.saelens import release_location

    return release_location(name)


def _local(folder: Path) -> SetLocation:
    if (folder / _CONFIG).is_file():
        return _described(Place(str(folder)))
    from core.graph.transcoders.saelens import folder_location

    found = folder_location(folder)
    if found is None:
        raise NotFound(
            f"There is no {_CONFIG} in {folder.resolve().name}.",
            "circuit-tracer's folders have one; SAELens' have a folder per layer with cfg.json. See the README.",
        )
    return found


def _described(folder: Place) -> SetLocation:
    """A set by its `config.yaml`."""
    config = _read(folder)
    cross_layer = _KINDS.get(str(config.get("model_kind")))
    if cross_layer is None:
        raise InvalidRequest(
            f"The {_CONFIG} of {folder.name} has the model_kind {config.get('model_kind')!r}.",
            f"Known kinds: {', '.join(_KINDS)}.",
        )
    given = config.get("scan")
    return SetLocation(
        name=given if folder.repo is None and isinstance(given, str) else _plain_name(folder),
        folder=folder,
        cross_layer=cross_layer,
        reads=read_site(str(config.get("feature_input_hook"))),
        writes=write_site(str(config.get("feature_output_hook"))),
        files=tuple(_file(entry, folder) for entry in config.get("transcoders") or ()),
        k=_top_k(config, folder),
    )


def _read(folder: Place) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(folder.inside(_CONFIG).fetch().read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The {_CONFIG} of {folder.name} is not YAML.") from error
    if not isinstance(config, dict):
        raise InvalidRequest(f"The {_CONFIG} of {folder.name} is not a mapping.")
    return config


def _plain_name(folder: Place) -> str:
    return folder.name if folder.repo is not None else Path(folder.path).resolve().name


def _file(entry: Any, folder: Place) -> Place:
    """A file of the list `transcoders`: a URI, or a path inside the set's own folder."""
    if not isinstance(entry, str) or Path(entry).is_absolute() or ".." in Path(entry).parts:
        raise InvalidRequest(
            f"The {_CONFIG} of {folder.name} lists {entry!r} as a layer's file.",
            "Write hf://owner/name/path/of/file, or a path inside the folder of the set.",
        )
    return Place.parse_uri(entry) if entry.startswith("hf://") else folder.inside(entry)


def _top_k(config: dict[str, Any], folder: Place) -> int | None:
    activation = config.get("activation")
    if activation is None or str(activation).replace("_", "").lower() in ("relu", "jumprelu"):
        return None  # thresholds tell which of the two it is
    if activation != "topk":
        raise InvalidRequest(
            f"The {_CONFIG} of {folder.name} has the activation {activation!r}.", "Known: relu, jumprelu, topk."
        )
    k = config.get("k")
    if not isinstance(k, int) or k < 1:
        raise InvalidRequest(f"The {_CONFIG} of {folder.name} says topk, but its k is {k!r}.", "Write k: 64, say.")
    return k
