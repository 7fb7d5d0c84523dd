"""Jobs on the wire: a body as a specification, a job and what it tells as replies.

The caller's key becomes a reference in the specification; it travels beside it and is held in memory only. What a body
leaves open is as the specification has it.
"""

import hashlib

import orjson
from pydantic import SecretStr
from pydantic.alias_generators import to_camel

from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts, Texts, WindowShape
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.jobs.choices import AskedModel, CacheChoice, CacheMaking, LatentChoice, Sampling, Step
from core.autointerp.jobs.control import JobChange, JobReport
from core.autointerp.jobs.estimate import Estimate
from core.autointerp.jobs.results import as_line
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import Request
from core.autointerp.jobs.units import Event, UnitResult
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Budget
from core.autointerp.sampling import SamplerSettings
from core.errors import InvalidRequest
from core.exchange.autointerp import usage_body
from core.exchange.spelling import parameters_of, spelt
from core.wire.autointerp_jobs import (
    CacheMakingBody,
    CachingBody,
    EstimateResponse,
    JobChangeRequest,
    JobListResponse,
    JobRequest,
    JobResponse,
    JobResultLine,
    StepBody,
)


def job_spec(body: JobRequest, key: SecretStr | None) -> tuple[JobSpec, ProviderKey | None]:
    """What a body asks for, and the caller's key.

    Args:
        body: The body.
        key: The key that the caller brings; None: the cluster's own is meant, or none is needed.

    Raises:
        InvalidRequest: The job can never be done as it is written.
        NotFound: There is no such type of explainer or scorer.
    """
    brought = None if key is None else ProviderKey(key.get_secret_value())
    reference = "configured" if brought is None else f"caller:{brought.fingerprint}"
    asked = judge = None
    if body.model is not None:
        local = body.provider == "local"
        asked = AskedModel(body.model, body.provider, body.base_url, None if local else reference)
    if body.judge is not None:
        local = body.judge.provider == "local"
        judge = AskedModel(body.judge.model, body.judge.provider, body.judge.base_url, None if local else reference)
    settings = body.sampling.model_dump(exclude={"sampler", "silent"})
    spec = JobSpec(
        model=body.model_id,
        sources=tuple(body.sae_ids),
        cache=CacheChoice(body.cache.name, None if body.cache.make is None else _making(body.cache.make)),
        asked=asked,
        judge=judge,
        explainers=tuple(_step(step) for step in body.explainers),
        scorers=tuple(_step(step) for step in body.scorers),
        latents=LatentChoice(**body.latents.model_dump(exclude={"indices"}), indices=tuple(body.latents.indices)),
        sampling=Sampling(SamplerSettings(**settings), body.sampling.sampler, body.sampling.silent),
        baselines=tuple(dict.fromkeys(body.baselines)),
        budget=Budget(body.budget_usd, body.max_tokens_total),
        deadline_s=body.deadline,
        concurrency=body.concurrency,
        priority=body.priority,
        force=body.force,
        seed=body.seed,
        alike_failures=body.pause_after,
    )
    return spec, brought


def asked_for(spec: JobSpec, idempotency_key: str | None) -> Request:
    """How a job was asked for: requests for the same are the same, however they are written."""
    return Request(key=idempotency_key or None, digest=hashlib.sha256(spec.dumped()).hexdigest())


def job_change(body: JobChangeRequest) -> JobChange:
    """What is to be different."""
    return JobChange(body.budget_usd, body.max_tokens_total, body.concurrency, body.priority, body.deadline)


def job_reply(report: JobReport) -> JobResponse:
    """A job."""
    job, spec, caching = report.job, report.job.spec, report.caching
    return JobResponse(
        job_id=job.id,
        status=job.status,
        reason=job.reason,
        model_id=spec.model,
        sae_ids=list(spec.sources),
        stages=[str(stage) for stage in spec.stages()],
        total=job.counts.total if job.planned else None,
        done=job.counts.done,
        failed=job.counts.failed,
        skipped=job.counts.skipped,
        in_flight=report.in_flight,
        units_per_s=report.units_per_s,
        eta_s=report.eta_s,
        caching=None
        if caching is None
        else CachingBody(
            stage=caching.stage,
            done=caching.done,
            of=caching.of,
            tokens_per_s=caching.tokens_per_s,
            eta_s=caching.eta_s,
        ),
        usage=usage_body(job.usage),
        spent_tokens=job.spent.tokens,
        spent_usd=job.spent.usd,
        budget_usd=spec.budget.usd,
        max_tokens_total=spec.budget.tokens,
        concurrency=spec.concurrency,
        priority=spec.priority,
        deadline=spec.deadline_s,
        created_at=job.created_s,
        started_at=job.started_s,
        ended_at=job.ended_s,
        last_event_id=job.last_event,
    )


def job_list(reports: list[JobReport], limit: int) -> JobListResponse:
    """A page of jobs."""
    more = reports[-1].job.id if len(reports) == limit else None
    return JobListResponse(jobs=[job_reply(report) for report in reports], next=more)


def estimate_reply(found: Estimate) -> EstimateResponse:
    """What a job will take."""
    return EstimateResponse(
        latents=found.latents,
        units=found.units,
        calls=found.calls,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        most_completion_tokens=found.most_completion_tokens,
        usd=found.usd,
        most_usd=found.most_usd,
        minutes=found.minutes,
        sampled=found.sampled,
        left_out=found.left_out,
    )


def result_line(result: UnitResult, *, snake_case: bool) -> JobResultLine:
    """What came of a unit; the names of figures are in the casing of the reply."""
    line = as_line(result)
    metrics = line["metrics"]
    if metrics is not None and not snake_case:
        line["metrics"] = {to_camel(name): value for name, value in metrics.items()}
    return JobResultLine.model_validate(line)


def event_data(event: Event, *, snake_case: bool) -> bytes:
    """What an event says: of explanations and scores what results say, of others what there is to tell."""
    if event.result is not None and event.kind in ("explanation", "score"):
        line = result_line(event.result, snake_case=snake_case)
        return line.model_dump_json(by_alias=not snake_case).encode()
    return orjson.dumps(spelt({"at_s": event.at_s, **event.body}, str if snake_case else to_camel))


def _step(body: StepBody) -> Step:
    return Step(body.type, parameters_of(body.params), body.label)


def _making(body: CacheMakingBody) -> CacheMaking:
    return CacheMaking(
        _texts(body),
        body.n_tokens,
        WindowShape(body.context_tokens),
        ReservoirShape(body.example_tokens, body.top, body.per_octave, body.silent_pool),
        threshold=body.threshold,
    )


def _texts(body: CacheMakingBody) -> Texts:
    given = [one for one in (body.dataset, body.files, body.demo_documents) if one is not None]
    if len(given) != 1:
        raise InvalidRequest("A cache is made over one kind of texts.", "Set dataset, files or demoDocuments.")
    if body.dataset is not None:
        one = body.dataset
        return DatasetTexts(one.repo, one.split, one.name, one.column, one.revision)
    if body.files is not None:
        return FileTexts(tuple(body.files), body.text_column)
    assert body.demo_documents is not None
    return DemoTexts(body.demo_documents, body.text_seed)
