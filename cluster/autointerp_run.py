"""A run of automatic interpretability in this process, in a folder from which it can be gone on with.

    flags -> job in the folder's file -> driver over a workshop -> results -> page, picture, lines

The folder has the cache of activations, the job with its units, every reply of a language model and every charge. So a
run that was interrupted, by Ctrl-C or by force, goes on where it was when the same command is given again: what was
cached, answered and paid for is not asked for again.

Deliberately not here: reading flags (`autointerp_flags`) and what is shown (`autointerp_progress`).
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from cluster.autointerp_flags import CACHE, RunFlags, job_of, lasting, making_of, sources_of
from cluster.autointerp_progress import JobProgress
from core.autointerp.caching.library import catalogue_tokenizer
from core.autointerp.embedder import BatchedEmbedder, Embedder, EmbedderSettings, load_sentence_model
from core.autointerp.jobs.choices import CacheChoice
from core.autointerp.jobs.control import JobChange, JobControl, JobReport
from core.autointerp.jobs.driver import Driver
from core.autointerp.jobs.history import History
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.jobs.records import Caches
from core.autointerp.jobs.results import as_line
from core.autointerp.jobs.run import caching_told
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.sources import split_source
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore, Request
from core.autointerp.jobs.units import ACTIVE, Job, Spent
from core.autointerp.providers.cache_file import ReplyFile
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account, MemoryLedger
from core.autointerp.providers.pricing import Price
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.registry import scorer_type
from core.autointerp.report.rows import Line
from core.autointerp.subject import Subject
from core.autointerp.subject_engine import open_subject
from core.autointerp.workshop import OPENROUTER, Books, OwnKey, Rules, Terms, Workshop
from core.demo.oracle import demo_models
from core.device import DeviceExecutor, resolve_device
from core.errors import Conflict, InvalidRequest
from core.outbound_urls import UrlPolicy

JOBS: Final = "jobs.sqlite"
_REPLIES: Final = "replies.sqlite"
_CHARGES: Final = "charges.sqlite"
_KEY: Final = "run"
_WAIT_S: Final = 0.25
_OPENROUTER_KEY: Final = "OPENROUTER_API_KEY"
_OTHER_KEY: Final = "EXPLAINER_API_KEY"


@dataclass(frozen=True, slots=True)
class Means:
    """What a run in this process needs besides its flags.

    Attributes:
        folder: The run's.
        overwrite: What is to be made again: `cache`, `scores`.
        price: What the language model costs per million tokens, where its provider does not say.
        embedding_model: Folder or id of a sentence model, for scorers that embed.
        offline: Whether that may not be fetched.
    """

    folder: Path
    overwrite: tuple[str, ...] = ()
    price: Price | None = None
    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    offline: bool = False


def spec_of(flags: RunFlags) -> JobSpec:
    """The job that flags ask for, with a cache of its own.

    Raises:
        RayscopeError: They ask for what there is not.
    """
    if flags.device not in ("auto", "cpu", "cuda", "mps"):
        raise InvalidRequest(f"There is no device '{flags.device}'.", "There are auto, cpu, cuda and mps.")
    making = replace(making_of(flags), device=resolve_device(flags.device))
    return job_of(flags, sources_of(flags), CacheChoice(CACHE, making))


def shares_of(spec: JobSpec) -> dict[str, float]:
    """Which share of a job's units explains, and which scores."""
    stages = list(spec.stages())
    return {kind: sum(stage.kind == kind for stage in stages) / len(stages) for kind in ("explain", "score")}


def run_here(spec: JobSpec, flags: RunFlags, means: Means, shown: JobProgress) -> Job:
    """Does a job, or what is left of it; how it stands then.

    Raises:
        RayscopeError: It can not be begun.
        KeyboardInterrupt: Somebody stopped it.
    """
    if "cache" in means.overwrite:
        for found in means.folder.glob(f"{CACHE}*"):
            shutil.rmtree(found)
    if means.overwrite:
        for found in means.folder.glob(f"{JOBS}*"):
            found.unlink()
    rules = _rules(spec, flags, means)
    return asyncio.run(_run(spec, rules, means, shown))


def lines_of(folder: Path) -> list[Line] | None:
    """The results of the run in a folder, as its file has them; None if it has no such file."""
    if not (folder / JOBS).is_file():
        return None
    file = JobFile(folder / JOBS)
    try:
        jobs = JobStore(file).jobs(1)
        return [as_line(result) for job in jobs for result in History(file).all_results(job.id)]
    finally:
        file.close()


def _rules(spec: JobSpec, flags: RunFlags, means: Means) -> Rules:
    """Only the named address is called, with the key that the environment has for it."""
    asked = [one for one in (spec.asked, spec.judge) if one is not None]
    for one in asked:
        if one.provider == "local":
            demo_models(one.model)  # what is not here would be told for each feature
    if all(one.provider == "local" for one in asked):
        return Rules()
    base_url = (flags.base_url or OPENROUTER).rstrip("/")
    address = httpx.URL(base_url)
    name = _OPENROUTER_KEY if base_url == OPENROUTER else _OTHER_KEY
    key = os.environ.get(name, "")
    if not key and base_url == OPENROUTER:
        raise InvalidRequest("There is no key for OpenRouter.", f"Set {_OPENROUTER_KEY}.")
    return Rules(
        urls=UrlPolicy((address.host,), (443, *(() if address.port is None else (address.port,))), loopback=True),
        own_keys=(OwnKey(base_url, ProviderKey(key)),),
        terms={(base_url, "*"): Terms(means.price)},
    )


async def _run(spec: JobSpec, rules: Rules, means: Means, shown: JobProgress) -> Job:
    file = JobFile(means.folder / JOBS)
    charges, replies = ChargeFile(means.folder / _CHARGES), ReplyFile(means.folder / _REPLIES)
    ledger = MemoryLedger(charges)
    ledger.restore(charges.charges())

    async def spent(account: str) -> Spent:
        balance = ledger.balance(Account(account))
        return Spent(balance.tokens, balance.usd)

    from transformers.utils import logging as transformers_logging

    from core.autointerp.caching.job import cache_activations

    transformers_logging.disable_progress_bar()  # the model's weights are read in a moment

    store = JobStore(file)
    books = Books(RateGates(RateLimits()), ledger, replies)
    try:
        async with _embedder(spec, means) as embedder, _subject(spec) as subject:
            workshop = Workshop(rules, books, local=demo_models, embedder=embedder, subject=subject)
            # A model in a folder is known by that folder's name in its cache, where its tokenizer is not to be found.
            caches = Caches((means.folder,), cache_activations, lambda _: catalogue_tokenizer(spec.model))
            driver = Driver(store, workshop, caches.open, spent=spent)
            control = JobControl(store, driver)
            try:
                await driver.start()
                job = await _begin(control, spec)
                await asyncio.gather(workshop.prepare(), _follow(driver, control, job.id, shown))
                return (await control.report(job.id)).job
            finally:
                await driver.aclose()
                await workshop.aclose()
    finally:
        replies.close()
        charges.close()
        file.close()


async def _begin(control: JobControl, spec: JobSpec) -> Job:
    """The run's job: the one that is in the file, gone on with, or a new one.

    Raises:
        InvalidRequest: The one in the file is another.
    """
    digest = hashlib.sha256(lasting(spec).dumped()).hexdigest()
    try:
        job = (await control.submit(spec, Request(key=_KEY, digest=digest))).job
    except Conflict:
        raise InvalidRequest(
            "The folder holds a run that was begun with other settings.",
            "Give the settings it was begun with, another --name, or --overwrite scores.",
        ) from None
    if job.spec != spec:
        change = JobChange(spec.budget.usd, spec.budget.tokens, spec.concurrency)
        job = (await control.amend(job.id, change)).job
    if job.status in (*ACTIVE, "succeeded", "cancelled"):
        return job
    try:
        return (await control.resume(job.id)).job
    except Conflict:
        return job  # what failed would fail again


async def _follow(driver: Driver, control: JobControl, job_id: str, shown: JobProgress) -> None:
    after = 0
    while True:
        driver.check()
        events, over = await control.events(job_id, after, _WAIT_S)
        for event in events:
            after = event.number
            if event.result is not None:
                shown.result(as_line(event.result))
        report = await control.report(job_id)
        shown.status(_told(report))
        if over or (not events and report.job.status not in ACTIVE):
            return


def _told(report: JobReport) -> dict[str, Any]:
    job = report.job
    return {
        "total": job.counts.total,
        "units_per_s": report.units_per_s,
        "spent_usd": job.spent.usd,
        "caching": None if report.caching is None else caching_told(report.caching),
    }


@asynccontextmanager
async def _subject(spec: JobSpec) -> AsyncGenerator[Subject | None]:
    """The model to be steered, if a scorer needs it."""
    make = spec.cache.make
    if make is None or not any("subject" in scorer_type(step.type).needs for step in spec.scorers):
        yield None
        return
    sets = tuple(dict.fromkeys(split_source(source)[1] for source in spec.sources))
    async with open_subject(spec.model, sets, make.set_folders) as subject:
        yield subject


@asynccontextmanager
async def _embedder(spec: JobSpec, means: Means) -> AsyncGenerator[Embedder | None]:
    """An embedder, if a scorer needs one."""
    if not any("embeddings" in scorer_type(step.type).needs for step in spec.scorers):
        yield None
        return
    settings = EmbedderSettings(means.embedding_model, offline=means.offline)
    device = DeviceExecutor(resolve_device(settings.device))
    try:
        embedder = BatchedEmbedder(await device.run(load_sentence_model, settings), settings, device)
        try:
            yield embedder
        finally:
            await embedder.aclose()
    finally:
        await device.aclose()
