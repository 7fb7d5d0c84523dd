"""`rayscope autointerp`: explain and score the features of an SAE set, here or on a cluster, and report on it.

    rayscope autointerp run rayscope-demo res-demo --max_features 10
    rayscope autointerp report results/rayscope-demo-res-demo
    rayscope autointerp export results/rayscope-demo-res-demo/cache --delphi latents

Flags are delphi's where it has one for the same thing, and `--max_features` is `--max_latents` as early delphi called
it.
"""

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from cluster.autointerp_export import export
from cluster.terminal import CONSOLE, refuse, say, words
from core.errors import RayscopeError

if TYPE_CHECKING:
    from cluster.autointerp_flags import RunFlags
    from core.autointerp.jobs.specification import JobSpec

autointerp = typer.Typer(help="Explain and score features.", no_args_is_help=True)
autointerp.command()(export)
_GO_ON = "The same command goes on with it."
_FOLLOW = "The same command follows it again."
_INTERRUPTED = 130
_UNFINISHED = 3

_Names = list[str] | None


@autointerp.command()
def run(  # noqa: PLR0913, PLR0917 - a flag is a parameter
    model: Annotated[str, typer.Argument(help="Model id, Hugging Face id or local folder.")],
    sae_set: Annotated[str, typer.Argument(help="Source set of the model, or a local folder of one.")],
    hookpoints: Annotated[
        _Names, typer.Option("--hookpoints", help="Source ids, layers or hook points, such as layers.5; default: all.")
    ] = None,
    max_latents: Annotated[
        int | None,
        typer.Option("--max_latents", "--max_features", min=1, help="Features of each source at most; default: all."),
    ] = None,
    latents: Annotated[
        str | None,
        typer.Option(
            "--latents",
            help="Which: first, random, a range (0-99) or a list (1,5,88); default: first, for the demo random.",
        ),
    ] = None,
    explainer_model: Annotated[
        str | None,
        typer.Option("--explainer_model", help="Explains and judges. Default for the demo: its oracle, without a key."),
    ] = None,
    explainer_provider: Annotated[
        str | None,
        typer.Option(
            "--explainer_provider",
            help="openrouter (key from OPENROUTER_API_KEY) or local: of this process or cluster, or at --base_url.",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base_url", help="Any OpenAI-compatible address (.../v1); its key from EXPLAINER_API_KEY."),
    ] = None,
    scorer_model: Annotated[
        str | None, typer.Option("--scorer_model", help="Judges, if not the one that explains.")
    ] = None,
    explainer: Annotated[
        _Names, typer.Option("--explainer", help="Explainers, or none; see GET /v1/autointerp/types.")
    ] = None,
    scorers: Annotated[_Names, typer.Option("--scorers", help="Scorers; default: fuzz detection.")] = None,
    fuzz_type: Annotated[
        str, typer.Option("--fuzz_type", help="default: silent texts; active: the same texts marked wrongly.")
    ] = "default",
    texts: Annotated[_Names, typer.Option("--texts", help="Local corpus: .txt, .jsonl, .parquet or folders.")] = None,
    dataset_repo: Annotated[
        str | None, typer.Option("--dataset_repo", help="Hugging Face data set; default: the demo's own texts for it.")
    ] = None,
    dataset_split: Annotated[str, typer.Option("--dataset_split", help="Its split.")] = "train[:1%]",
    dataset_name: Annotated[str | None, typer.Option("--dataset_name", help="Its configuration.")] = None,
    dataset_column: Annotated[str, typer.Option("--dataset_column", help="Field that holds the text.")] = "text",
    n_tokens: Annotated[
        int | None,
        typer.Option("--n_tokens", min=1, help="Tokens to cache; default: 10,000,000, for the demo 100,000."),
    ] = None,
    cache_ctx_len: Annotated[int, typer.Option("--cache_ctx_len", help="Tokens that the model reads at once.")] = 256,
    example_ctx_len: Annotated[int, typer.Option("--example_ctx_len", help="Tokens of an example.")] = 32,
    activation_threshold: Annotated[
        float | None,
        typer.Option("--activation_threshold", min=0, help="A feature fires above it; default: 0, for the demo 2."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where activations are computed: auto, cpu, cuda or mps.")
    ] = "auto",
    min_examples: Annotated[
        int, typer.Option("--min_examples", min=1, help="Texts that a feature must fire in, else it is skipped.")
    ] = 20,
    n_examples_train: Annotated[int, typer.Option("--n_examples_train", help="Texts shown to the explainer.")] = 40,
    n_examples_test: Annotated[int, typer.Option("--n_examples_test", help="Active texts shown to scorers.")] = 50,
    n_non_activating: Annotated[int, typer.Option("--n_non_activating", help="Silent texts shown to scorers.")] = 50,
    non_activating_source: Annotated[
        str,
        typer.Option("--non_activating_source", help="random, or neighbours: texts where similar features fire."),
    ] = "random",
    n_quantiles: Annotated[int, typer.Option("--n_quantiles", help="Parts of a feature's range.")] = 10,
    train_type: Annotated[
        str, typer.Option("--train_type", help="Texts to explain by: top, random, quantiles or mix.")
    ] = "quantiles",
    ratio_top: Annotated[float, typer.Option("--ratio_top", help="Share of the strongest in a mix.")] = 0.2,
    sampler: Annotated[str, typer.Option("--sampler", help="rayscope or delphi-legacy.")] = "rayscope",
    num_examples_per_scorer_prompt: Annotated[
        int, typer.Option("--num_examples_per_scorer_prompt", min=1, help="Texts in a question to a judge.")
    ] = 5,
    log_probs: Annotated[bool, typer.Option("--log_probs", help="Ask judges for log-probabilities: adds AUC.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Baseline: an SAE with random directions, too.")] = False,
    random_explanations: Annotated[
        bool, typer.Option("--random_explanations", help="Baseline: score other features' explanations, too.")
    ] = False,
    pipeline_num_proc: Annotated[
        int, typer.Option("--pipeline_num_proc", min=1, help="Features' stages worked on at once.")
    ] = 16,
    budget_usd: Annotated[
        float | None, typer.Option("--budget_usd", min=0, help="Pause before it is exceeded.")
    ] = None,
    max_tokens_total: Annotated[
        int | None, typer.Option("--max_tokens_total", min=0, help="The same in tokens.")
    ] = None,
    prompt_usd: Annotated[
        float | None, typer.Option("--prompt_usd", help="Price per million tokens read, for --budget_usd.")
    ] = None,
    completion_usd: Annotated[
        float | None, typer.Option("--completion_usd", help="Price per million tokens written.")
    ] = None,
    embedding_model: Annotated[
        str, typer.Option("--embedding_model", help="Folder or id, for scorers that embed.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    force: Annotated[bool, typer.Option("--force", help="Ask anew what was answered before.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Gives other examples.")] = 22,
    name: Annotated[str, typer.Option("--name", help="Name of the run; default: model and set.")] = "",
    results: Annotated[Path, typer.Option("--results", help="Folder of runs.")] = Path("results"),
    overwrite: Annotated[_Names, typer.Option("--overwrite", help="Make again: cache, scores.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Run on the cluster at this address instead.")] = None,
    secret: Annotated[str | None, typer.Option("--secret", envvar="SECRET", help="The cluster's secret.")] = None,
) -> None:
    """Explain the features of an SAE set and score the explanations. Interrupted, the same command goes on."""
    from cluster.autointerp_flags import RunFlags

    flags = RunFlags(
        model=model,
        sae_set=sae_set,
        hookpoints=tuple(words(hookpoints)),
        latents=latents,
        max_latents=max_latents,
        explainer_model=explainer_model,
        explainer_provider=explainer_provider,
        base_url=base_url,
        scorer_model=scorer_model,
        explainers=tuple(words(explainer)) or ("default",),
        scorers=tuple(words(scorers)) or ("fuzz", "detection"),
        fuzz_type=fuzz_type,
        texts=tuple(words(texts)),
        dataset_repo=dataset_repo,
        dataset_split=dataset_split,
        dataset_name=dataset_name,
        dataset_column=dataset_column,
        n_tokens=n_tokens,
        cache_ctx_len=cache_ctx_len,
        example_ctx_len=example_ctx_len,
        activation_threshold=activation_threshold,
        device=device,
        min_examples=min_examples,
        n_examples_train=n_examples_train,
        n_examples_test=n_examples_test,
        n_non_activating=n_non_activating,
        non_activating_source=non_activating_source,
        n_quantiles=n_quantiles,
        train_type=train_type,
        ratio_top=ratio_top,
        sampler=sampler,
        num_examples_per_scorer_prompt=num_examples_per_scorer_prompt,
        log_probs=log_probs,
        random=random,
        random_explanations=random_explanations,
        pipeline_num_proc=pipeline_num_proc,
        budget_usd=budget_usd,
        max_tokens_total=max_tokens_total,
        force=force,
        seed=seed,
    )
    folder = results / (name or f"{Path(model).name}-{Path(sae_set).name}")
    price = None if prompt_usd is None or completion_usd is None else (prompt_usd, completion_usd)
    # A shell that puts this command into the background makes it deaf to interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if url is None:
            status, reason = _run_here(flags, folder, tuple(words(overwrite)), price, embedding_model)
        else:
            status, reason = _run_there(flags, folder, tuple(words(overwrite)), url, secret)
        _report(folder)
    except KeyboardInterrupt:
        say(f"Stopped. {_GO_ON}" if url is None else f"Not followed any more; the job goes on there. {_FOLLOW}")
        raise typer.Exit(_INTERRUPTED) from None
    except (RayscopeError, ValidationError) as error:
        refuse(error)
    if status != "succeeded":
        say(f"The run is {status}. {reason} {_GO_ON if url is None else _FOLLOW}")
        raise typer.Exit(_UNFINISHED)


def _run_here(
    flags: "RunFlags",
    folder: Path,
    overwrite: tuple[str, ...],
    price: tuple[float, float] | None,
    embedding_model: str,
) -> tuple[str, str]:
    """How the run stands, and why."""
    from cluster.autointerp_progress import JobProgress
    from cluster.autointerp_run import Means, lines_of, run_here, shares_of, spec_of
    from core.autointerp.providers.pricing import Price
    from core.autointerp.report.files import write_lines

    spec = spec_of(flags)
    means = Means(folder, overwrite, None if price is None else Price(*price), embedding_model)
    _name(folder, flags, spec, anew=bool(overwrite))
    with JobProgress(CONSOLE, shares_of(spec)) as shown:
        job = run_here(spec, flags, means, shown)
    write_lines(folder, lines_of(folder) or [])
    return job.status, job.reason or ""


def _run_there(
    flags: "RunFlags", folder: Path, overwrite: tuple[str, ...], url: str, secret: str | None
) -> tuple[str, str]:
    """How the job stands, and why."""
    from cluster.autointerp_follow import JOB, Cluster, run_there, spec_there
    from cluster.autointerp_progress import JobProgress
    from cluster.autointerp_run import shares_of
    from core.autointerp.report.files import write_lines

    spec = spec_there(flags)
    if overwrite:
        (folder / JOB).unlink(missing_ok=True)
    _name(folder, flags, spec, anew=bool(overwrite))
    with JobProgress(CONSOLE, shares_of(spec)) as shown:
        status, reason, lines = run_there(spec, Cluster(url, secret), folder, shown)
    write_lines(folder, lines)
    return status, reason


def _name(folder: Path, flags: "RunFlags", spec: "JobSpec", *, anew: bool) -> None:
    """Makes the folder of a run and writes down what it is called, unless it has a run already."""
    from core.autointerp.report.files import RUN, RunRecord

    if (folder / RUN).is_file() and not anew:
        return
    folder.mkdir(parents=True, exist_ok=True)
    asked = spec.asked.model if spec.asked is not None else "nobody"
    facts = (
        ("model", spec.model),
        ("sources", ", ".join(spec.sources)),
        ("explained and judged by", asked if spec.judge is None else f"{asked}, {spec.judge.model}"),
        ("explainers", ", ".join(step.label for step in spec.explainers) or "none"),
    )
    RunRecord(f"{spec.model} {flags.set_name}", facts, tuple(step.label for step in spec.scorers)).save(folder)


@autointerp.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", exists=True, file_okay=False)],
) -> None:
    """Draw a run's tables, picture and page again, from what it has come to so far."""
    try:
        _report(folder)
    except RayscopeError as error:
        refuse(error)


def _report(folder: Path) -> None:
    from cluster.autointerp_progress import print_report
    from cluster.autointerp_run import lines_of
    from core.autointerp.report.files import PAGE, PICTURE, RunRecord, read_lines, write_report

    record = RunRecord.load(folder)
    lines = lines_of(folder)
    made = write_report(folder, record, read_lines(folder) if lines is None else lines)
    print_report(Console(width=max(shutil.get_terminal_size().columns, 100)), made)
    say(f"Written: {folder / PAGE}, {folder / PICTURE}")
