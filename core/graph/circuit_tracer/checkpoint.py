"""A model folder that transformers 4.57 reads, made from one that transformers 5 wrote.

Weights are the same and are linked. What changed is JSON, and 4.57 silently takes a default for a key it does not know:
a rotary base of 10000, for example. Its own folders pass unchanged.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONFIG = "config.json"
_TOKENIZER = "tokenizer_config.json"
_BY_LAYER_TYPE = "full_attention"
_ROTARY = {_BY_LAYER_TYPE: ("rope_theta", "rope_scaling"), "sliding_attention": ("rope_local_base_freq", None)}


def export(folder: Path, to: Path) -> Path:
    """Makes the folder.

    Args:
        folder: A model, its tokenizer included.
        to: An empty folder.

    Returns:
        `to`.

    Raises:
        ValueError: The model turns positions in a way that 4.57 has no words for.
    """
    for file in folder.iterdir():
        if file.is_file() and file.name not in {_CONFIG, _TOKENIZER}:
            (to / file.name).symlink_to(file.resolve())
    for name, convert in ((_CONFIG, older_config), (_TOKENIZER, older_tokenizer)):
        if (folder / name).exists():
            (to / name).write_text(json.dumps(convert(json.loads((folder / name).read_text())), indent=1))
    return to


def older_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` in the words of 4.57.

    Raises:
        ValueError: As `export`.
    """
    found = {name: value for name, value in config.items() if name != "rope_parameters"}
    found.setdefault("dtype", found.get("torch_dtype", "float32"))
    if "text_config" in found:
        found["text_config"] = older_config(found["text_config"])
    rotary = config.get("rope_parameters") or {}
    for layer_type, parameters in rotary.items() if _BY_LAYER_TYPE in rotary else [(_BY_LAYER_TYPE, rotary)]:
        base, scaling = _ROTARY[layer_type]
        rest = dict(parameters)
        if "rope_theta" in rest:
            found[base] = rest.pop("rope_theta")
        if "partial_rotary_factor" in rest:
            found["partial_rotary_factor"] = rest.pop("partial_rotary_factor")
        if rest.get("rope_type", "default") == "default":
            continue
        if scaling is None:
            raise ValueError(f"transformers 4.57 has no scaled rotary embedding of {layer_type} layers")
        found[scaling] = rest
    return found


def older_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json` in the words of 4.57."""
    found = {name: value for name, value in config.items() if name != "backend"}
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    return found
