"""What a model says about itself on the wire: `/v1/models` and the peer's `/v1/capabilities`."""

from collections.abc import Sequence

from core.exchange.graph import ServedGraphs
from core.exchange.served import ServedModel
from core.residency import ResidencyStats
from core.wire.cluster import (
    CapabilitiesResponse,
    Endpoints,
    Limits,
    ModelInfo,
    ModelsResponse,
    OpenAIModelInfo,
    RunnerInfo,
    SaeCache,
    SourceInfo,
    SourceSetInfo,
    TranscoderSetInfo,
)


def models_listing(served: Sequence[ServedModel], graphs: Sequence[ServedGraphs] = ()) -> ModelsResponse:
    """What is served."""
    return ModelsResponse(
        models=[model_info(model) for model in served],
        transcoder_sets=[_transcoder_set(one) for one in graphs],
        data=[OpenAIModelInfo(id=model.description.names.id) for model in served],
    )


def _transcoder_set(served: ServedGraphs) -> TranscoderSetInfo:
    graphs = served.description
    return TranscoderSetInfo(
        model=served.model.description.names.id,
        transcoder_set=graphs.transcoder_set,
        n_layers=graphs.n_layers,
        n_features=graphs.n_features,
        token_limit=graphs.limits.token_limit,
        max_feature_nodes=graphs.limits.most_feature_nodes,
    )


def model_info(model: ServedModel) -> ModelInfo:
    """One entry of `/v1/models`."""
    description = model.description
    return ModelInfo(
        id=description.names.id,
        aliases=list(description.names.aliases),
        weights=description.weights,
        dtype=description.dtype,
        device=description.device,
        n_layers=description.shape.n_layers,
        d_model=description.shape.d_model,
        vocab_size=description.shape.vocab_size,
        chat_template=bool(model.tokenizer.hf.chat_template),
        source_sets=[
            SourceSetInfo(
                id=name,
                sources=[
                    SourceInfo(
                        id=source.id,
                        layer=source.layer,
                        hook_name=source.hook_name,
                        d_sae=source.d_sae,
                        d_in=source.d_in,
                        architecture=source.architecture,
                        dfa=source.dfa,
                    )
                    for source in sources
                ],
                n_sources=len(sources),
            )
            for name, sources in description.source_sets().items()
        ],
        runners=[
            RunnerInfo(name=runner.name, source_sets=list(dict.fromkeys(s.source_set for s in runner.sources)))
            for runner in description.runners
        ],
        limits=Limits(
            token_limit=description.limits.token_limit,
            generation_limit=description.limits.generation_limit,
            batch_limit=description.limits.batch_limit,
            max_num_results=description.limits.max_num_results,
        ),
    )


def capabilities(model: ServedModel, stats: ResidencyStats) -> CapabilitiesResponse:
    """The peer's advert of one model. What it calls VRAM budget is unrationed here: the batcher bounds each step."""
    description = model.description
    sources = description.sources().values()
    has_sources = bool(sources)
    layers = range(description.shape.n_layers)
    return CapabilitiesResponse(
        model=description.names.id,
        backend="eager",
        device=description.device,
        max_concurrent_requests=sum(
            held.max_ongoing_requests for held in (*description.runners, description.steerer) if held is not None
        ),
        max_tokens=description.limits.generation_limit,
        token_limit=description.limits.token_limit,
        lens_token_limit=description.limits.token_limit,
        activation_token_limit=description.limits.token_limit,
        vram_budget_bytes=0,
        vram_budget_available_bytes=0,
        sae_cache=SaeCache(
            enabled=True,
            budget_bytes=stats.budget_bytes,
            resident_bytes=stats.resident_bytes,
            resident_count=stats.resident_count,
            registered_count=len(sources),
            host_bytes=stats.host_bytes,
            pinned_bytes=0,
            hits=stats.hits,
            misses=stats.misses,
            evictions=stats.evictions,
        ),
        max_num_results=description.limits.max_num_results,
        capture_points=[f"blocks.{layer}.hook_resid_{side}" for layer in layers for side in ("pre", "post")],
        grad_support="none",
        hooks_available=True,
        graph_replay=False,
        generation_only=False,
        static_points=[],
        static_writes=[],
        frozen_points=[],
        writes_available=[],
        num_layers=description.shape.n_layers,
        sae_sets=list(description.source_sets()),
        endpoints=Endpoints(
            tokenize=True,
            activation_single=True,
            activation_all=has_sources,
            activation_source=has_sources,
            activation_raw=True,
            activation_topk_by_token=has_sources,
            activation_attention=True,
            dfa=any(source.dfa for source in sources),
            steer_completion=True,
            steer_completion_chat=bool(model.tokenizer.hf.chat_template),
            lens_logit=False,
            lens_jacobian=False,
            neurons=False,
        ),
    )
