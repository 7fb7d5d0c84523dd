"""The `rayscope` command."""

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cluster.autointerp_cli import autointerp
from cluster.config import SingleModel, check, config_of, read_config
from cluster.launch import launch
from cluster.terminal import CONSOLE, refuse, say, words
from core.catalogue.catalogue import catalogue_rows
from core.errors import RayscopeError
from core.persona.convert import convert

app = typer.Typer(help="Serve the inside of language models.", no_args_is_help=True, add_completion=False)
persona = typer.Typer(help="Directions that the persona monitor reads.", no_args_is_help=True)
app.add_typer(persona, name="persona")
graph = typer.Typer(help="Documents of attribution graphs.", no_args_is_help=True)
app.add_typer(graph, name="graph")
app.add_typer(autointerp, name="autointerp")
_PICKLE_WARNING = (
    "SOURCE holds pickles, and reading a pickle can run whatever its author put into it. This reader builds plain data "
    "only and refuses every name it does not know; still, convert nothing from a place that you do not trust."
)


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
    vllm: Annotated[bool, typer.Option("--vllm", help="Write texts with vLLM, for large models.")] = False,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option("--tensor_parallel_size", envvar="TENSOR_PARALLEL_SIZE", help="vLLM: GPUs that share the model."),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option("--max_model_len", envvar="MAX_MODEL_LEN", help="vLLM: tokens of a prompt and its completion."),
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu_memory_utilization", envvar="GPU_MEMORY_UTILIZATION", help="vLLM: share of each GPU to fill."
        ),
    ] = None,
    persona_data_path: Annotated[
        str | None,
        typer.Option("--persona_data_path", envvar="PERSONA_DATA_PATH", help="Folder with persona assets."),
    ] = None,
    transcoder_set: Annotated[
        str | None,
        typer.Option("--transcoder_set", envvar="TRANSCODER_SET", help="Make attribution graphs with these, too."),
    ] = None,
    lazy_encoder: Annotated[
        bool, typer.Option("--lazy-encoder", "--lazy_encoder", envvar="LAZY_ENCODER", help="Graphs: encoders on disk.")
    ] = False,
    max_feature_nodes: Annotated[
        int, typer.Option("--max_feature_nodes", envvar="MAX_FEATURE_NODES", help="Graphs: features unless asked for.")
    ] = 10_000,
    update_interval: Annotated[
        int, typer.Option("--update_interval", envvar="UPDATE_INTERVAL", help="Graphs: batches between two rankings.")
    ] = 1000,
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
                    sae_sets=words(sae_sets),
                    include_sae=words(include_sae),
                    exclude_sae=words(exclude_sae),
                    model_dtype=model_dtype,
                    sae_dtype=sae_dtype,
                    device=device,
                    num_gpus=num_gpus,
                    token_limit=token_limit,
                    max_loaded_saes=max_loaded_saes,
                    vllm=vllm,
                    tensor_parallel_size=tensor_parallel_size,
                    max_model_len=max_model_len,
                    gpu_memory_utilization=gpu_memory_utilization,
                    persona_data_path=persona_data_path,
                    transcoder_set=transcoder_set,
                    lazy_encoder=lazy_encoder,
                    max_feature_nodes=max_feature_nodes,
                    update_interval=update_interval,
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
        raise typer.Exit(launch(document, CONSOLE))
    except (RayscopeError, ValidationError) as error:
        refuse(error)


@app.command()
def models() -> None:
    """Print the catalogue: models, their other names and their source sets."""
    table = Table("model", "also known as", "source sets")
    for names, source_sets in catalogue_rows():
        table.add_row(names.id, "\n".join(names.aliases), ", ".join(source_sets))
    Console().print(table)


@persona.command("convert")
def convert_persona(
    source: Annotated[Path, typer.Argument(help="Folder of one model's published asset.")],
    dest: Annotated[Path, typer.Argument(help="Folder to write; a persona asset's folder bears the model's name.")],
    title: Annotated[
        list[str] | None, typer.Option(help="Name of a direction, in order; default: the asset's own.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go on in spite of the warning.")] = False,
) -> None:
    """Turn a published persona asset (pickles) into safetensors and a manifest. Uses no network."""
    say(_PICKLE_WARNING, style="yellow")
    if not yes:
        say("Nothing was read. Go on with --yes.")
        raise typer.Exit(1)
    try:
        for line in convert(source, dest, title or ()):
            say(f"Left out: {line}")
    except RayscopeError as error:
        refuse(error)
    say(f"Written: {dest}")


@graph.command("render")
def render_graph(
    document: Annotated[Path, typer.Argument(help="A graph's JSON, plain or gzipped.", exists=True, dir_okay=False)],
    png: Annotated[Path | None, typer.Option("--png", help="Write a PNG there.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write an SVG there.")] = None,
    nodes: Annotated[int, typer.Option(help="Features and errors to show, the most influential.", min=1)] = 30,
    links: Annotated[int, typer.Option(help="Links to show, those over which most flows.", min=1)] = 90,
) -> None:
    """Draw an attribution graph."""
    from core.graph.document import read_document
    from core.graph.picture import picture

    if png is None and svg is None:
        raise typer.BadParameter("Say where the picture goes: --png, --svg or both.")
    try:
        content = read_document(document.read_bytes())
    except RayscopeError as error:
        refuse(error)
    if png is not None:
        png.write_bytes(picture(content, "png", nodes, links))
    if svg is not None:
        svg.write_bytes(picture(content, "svg", nodes, links))


def main() -> None:
    """Entry point of the command."""
    app()
