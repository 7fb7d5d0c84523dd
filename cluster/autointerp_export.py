"""`rayscope autointerp export`: a cache of activations for other tools.

rayscope autointerp export results/rayscope-demo-res-demo/cache --delphi latents --neuronpedia upload
"""

from pathlib import Path
from typing import Annotated

import typer

from cluster.terminal import refuse, say, words
from core.errors import RayscopeError


def export(
    cache: Annotated[Path, typer.Argument(help="Folder of a finished cache.", exists=True, file_okay=False)],
    delphi: Annotated[Path | None, typer.Option("--delphi", help="Write delphi's shards there.")] = None,
    neuronpedia: Annotated[
        Path | None, typer.Option("--neuronpedia", help="Write Neuronpedia's JSON lines there, a folder per source.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--sources", help="Source ids; default: all that are cached.")
    ] = None,
    n_splits: Annotated[int, typer.Option("--n_splits", min=1, help="delphi: files of each source.")] = 5,
    tokenizer: Annotated[
        str | None, typer.Option("--model", help="Where the model lies, if the cache was made from a local folder.")
    ] = None,
) -> None:
    """Write a cache of activations in delphi's layout, as Neuronpedia's JSON lines, or both."""
    if delphi is None and neuronpedia is None:
        raise typer.BadParameter("Say where it goes: --delphi, --neuronpedia or both.")
    try:
        files = _export(cache, delphi, neuronpedia, words(sources), n_splits, tokenizer)
    except RayscopeError as error:
        refuse(error)
    say(f"Written: {len(files)} files")


def _export(
    folder: Path, delphi: Path | None, neuronpedia: Path | None, sources: list[str], n_splits: int, model: str | None
) -> list[Path]:
    from core.autointerp.caching.delphi_export import export_delphi
    from core.autointerp.caching.library import catalogue_tokenizer
    from core.autointerp.caching.neuronpedia_export import export_neuronpedia
    from core.autointerp.caching.stored import StoredCache

    cache = StoredCache.open(folder)
    chosen = sources or list(cache.sources)
    files = [] if delphi is None else export_delphi(cache, delphi, sources=chosen, n_splits=n_splits, model_name=model)
    if neuronpedia is not None:
        reader = catalogue_tokenizer(model or cache.model)
        for source in chosen:
            files += export_neuronpedia(cache, reader, neuronpedia / source, source)
    return files
