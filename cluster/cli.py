"""The `rayscope` command."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cluster.config import SingleModel, check, config_of, read_config
from cluster.launch import launch
from core.catalogue.catalogue import catalogue_rows
from core.errors import RayscopeError

app = typer.Typer(help="Serve the inside of language models.", no_args_is_help=True, add_completion=False)
_CONSOLE = Console(stderr=True)


def _list(values: list[str] | None) -> list[str]:
    """Lists as flags and environment variables write them: repeated, separated by spaces, or as a JSON list."""
    joined = " ".join(values or [])  # an environment variable arrives split at its spaces
    try:
        parsed = json.loads(joined)
    except ValueError:
        return joined.split()
    return [str(value) for value in parsed] if isinstance(parsed, list) else joined.split()


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="Configuration to run when no model is named.")] = Path(
        "serve_config.yaml"
    ),
    model_id: Annotated[str | None, typer.Option("--model_id", envvar="MODEL_ID", help="Serve this model.")] = None,
    sae_sets: Annotated[
        list[str] | None, typer.Option("--sae_sets", envvar="SAE_SETS", help="Source sets to serve.")
    ] = None,
    port: Annotated[int, typer.Option("--port", envvar="PORT", help="Port to listen on.")] = 5002,
    host: Annotated[str, typer.Option("--host", envvar="HOST", help="Address to listen on.")] = "127.0.0.1",
    model_dtype: Annotated[
        str, typer.Option("--model_dtype", envvar="MODEL_DTYPE", help="Precision of the model.")
    ] = "auto",
    sae_dtype: Annotated[
        str, typer.Option("--sae_dtype", envvar="SAE_DTYPE", help="Precision of the SAEs.")
    ] = "float32",
    secret: Annotated[
        str | None, typer.Option("--secret", envvar="SECRET", help="Secret that clients must send; none: open.")
    ] = None,
    token_limit: Annotated[
        int, typer.Option("--token_limit", envvar="TOKEN_LIMIT", help="Tokens of one prompt.")
    ] = 200,
    device: Annotated[str, typer.Option("--device", envvar="DEVICE", help="auto, cpu, cuda or mps.")] = "auto",
    num_gpus: Annotated[float, typer.Option("--num_gpus", help="Share of a GPU to reserve.")] = 0.0,
    include_sae: Annotated[
        list[str] | None,
        typer.Option("--include-sae", "--include_sae", envvar="INCLUDE_SAE", help="Keep sources matching this."),
    ] = None,
    exclude_sae: Annotated[
        list[str] | None,
        typer.Option("--exclude-sae", "--exclude_sae", envvar="EXCLUDE_SAE", help="Then drop sources matching this."),
    ] = None,
    override_model_id: Annotated[
        str | None, typer.Option("--override_model_id", envvar="OVERRIDE_MODEL_ID", help="Weights to load instead.")
    ] = None,
    max_loaded_saes: Annotated[
        int | None, typer.Option("--max_loaded_saes", envvar="MAX_LOADED_SAES", help="SAEs in memory at most.")
    ] = None,
    list_models: Annotated[
        bool, typer.Option("--list_models", envvar="LIST_MODELS", help="Print the catalogue and exit.")
    ] = False,
    write_config: Annotated[
        Path | None, typer.Option("--write_config", help="Write the configuration there and exit.")
    ] = None,
) -> None:
    """Run a configuration file, or one model by flags. Flags become the equivalent configuration, which then runs."""
    if list_models:
        models()
        return
    try:
        if model_id is None:
            document = read_config(config)
        else:
            document = config_of(
                SingleModel(
                    model_id=model_id,
                    override_model_id=override_model_id,
                    sae_sets=_list(sae_sets),
                    include_sae=_list(include_sae),
                    exclude_sae=_list(exclude_sae),
                    model_dtype=model_dtype,
                    sae_dtype=sae_dtype,
                    device=device,
                    num_gpus=num_gpus,
                    token_limit=token_limit,
                    max_loaded_saes=max_loaded_saes,
                    host=host,
                    port=port,
                )
            )
            check(document)
        if write_config is not None:
            write_config.write_text(yaml.safe_dump(document, sort_keys=False))
            return
        if secret:
            os.environ["SECRET"] = secret
        raise typer.Exit(launch(document, _CONSOLE))
    except (RayscopeError, ValidationError) as error:
        _CONSOLE.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        if isinstance(error, RayscopeError) and error.hint:
            _CONSOLE.print(error.hint, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def models() -> None:
    """Print the catalogue: models, their other names and their source sets."""
    table = Table("model", "also known as", "source sets")
    for names, source_sets in catalogue_rows():
        table.add_row(names.id, "\n".join(names.aliases), ", ".join(source_sets))
    Console().print(table)


def main() -> None:
    """Entry point of the command."""
    app()
