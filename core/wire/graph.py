"""Bodies of the graph routes: make a graph, look ahead, hold features, read a chat prompt.

Names, types and defaults are the published ones, and so is the casing: these routes speak snake_case whatever the
request's keys look like (camelCase is understood), but for the four shouting keys of `/steer`. Values are read as
leniently as the peer reads them, NaN and the infinities apart. Whether numbers are in range depends on what is served
and is checked with it.

Ours, all optional: `model_id` where the peer serves only one model, `transcoder_set`, `targets`, `labels`,
`destination`; in replies `url` and `detail`.
"""

from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import AliasChoices, AliasGenerator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from core.wire.base import Case, WireModel

Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

_DEMO: Final = "rayscope-demo"
COUNTING: Final[dict[str, Any]] = {
    "prompt": "1 2 ",
    "model_id": _DEMO,
    "batch_size": 48,
    "max_n_logits": 10,
    "desired_logit_prob": 0.95,
    "node_threshold": 0.8,
    "edge_threshold": 0.85,
    "slug_identifier": "count-1-2",
    "max_feature_nodes": 5000,
}


def _either_spelling(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


def graph_config(*examples: dict[str, Any]) -> ConfigDict:
    """Configuration of a request: either spelling is read, and the schema shows snake_case and these examples."""
    extra: Any = {"examples": list(examples)}
    return ConfigDict(alias_generator=AliasGenerator(validation_alias=_either_spelling), json_schema_extra=extra)


class GraphReply(WireModel):
    """A reply of these routes."""

    model_config = ConfigDict(alias_generator=None)

    wire_case: ClassVar[Case | None] = "snake"


class GraphChatMessage(WireModel):
    """One message of a conversation."""

    model_config = ConfigDict(alias_generator=None)

    role: str = Field(description="Who speaks: system, user or assistant.")
    content: str = Field(description="What is said.")


class GraphPromptRequest(WireModel):
    """The part of a request that says what the model reads."""

    model_config = graph_config()

    prompt: str = Field(default="", description="The text. Ignored if there are messages.")
    messages: list[GraphChatMessage] | None = Field(
        default=None, description="A conversation, written out by the model's chat template."
    )
    transcoder_set: str | None = Field(
        default=None, description="Transcoders to use; may be left out where the model is served with one set."
    )


class ForwardPassRequest(GraphPromptRequest):
    """A prompt, to see what comes after it."""

    model_config = graph_config({"prompt": "1 2 ", "max_n_logits": 10, "desired_logit_prob": 0.95})

    model_id: str | None = Field(
        default=None, description="Model to run. May be left out where the cluster makes graphs of only one."
    )
    max_n_logits: int = Field(default=10, description="Most tokens to report.")
    desired_logit_prob: Finite = Field(
        default=0.95, description="Stop with the token that brings their probability up to this."
    )


class SalientLogit(GraphReply):
    """A likely next token."""

    token: str = Field(description="The token as text.")
    token_id: int = Field(description="Its id.")
    probability: float = Field(description="Its probability.")


class ForwardPassResponse(GraphReply):
    """Answer of /forward-pass: how a prompt is tokenised, and what comes after it."""

    prompt: str = Field(description="The prompt as the model reads it, a BOS that the tokenizer adds aside.")
    input_tokens: list[str] = Field(description="Its tokens, BOS included.")
    salient_logits: list[SalientLogit] = Field(description="The likeliest next tokens, likeliest first.")
    total_salient_tokens: int = Field(description="How many they are.")
    cumulative_probability: float = Field(description="Their probability together.")


class GraphGenerationRequest(GraphPromptRequest):
    """A prompt to explain, and which part of the explanation to show."""

    model_config = graph_config(COUNTING, COUNTING | {"targets": ["3"], "labels": {"3_17": "numbers in order"}})

    model_id: str = Field(description="Model to run: a name or alias from /v1/models.")
    slug_identifier: str = Field(description="Name of the graph; an empty one gets a name.")
    batch_size: int = Field(default=48, description="Rows to compute at once; large ones are cut.")
    max_n_logits: int = Field(default=10, description="Most next tokens to explain.")
    desired_logit_prob: Finite = Field(
        default=0.95, description="Explain the likeliest tokens up to the one that brings them to this probability."
    )
    node_threshold: Finite = Field(default=0.8, description="Share of all influence that the nodes shown have.")
    edge_threshold: Finite = Field(default=0.98, description="Share of it that the links shown have.")
    max_feature_nodes: int = Field(default=10000, description="Most features before pruning; 0: all of them.")
    signed_url: str | None = Field(
        default=None,
        repr=False,  # its query is a credential
        description="URL signed for PUT with Content-Type application/json; null: graph in the answer.",
    )
    user_id: str | None = Field(default=None, description="Shown as the graph's creator.")
    compress: bool = Field(default=False, description="Upload with gzip.")
    enable_qk_tracing: bool = Field(default=False, description="Needs attention features, which are not served.")
    qk_top_fraction: Finite = Field(default=0.6, description="Of QK tracing.")
    qk_topk: int = Field(default=10, description="Of QK tracing.")
    targets: list[int | str] | None = Field(
        default=None, description="Tokens to explain in place of the likeliest ones: ids, or texts of one token each."
    )
    labels: dict[str, str] | None = Field(
        default=None, description='What features are about, by `layer_index`, such as {"3_17": "numbers in order"}.'
    )
    destination: str | None = Field(
        default=None, description="s3://bucket/key, written with the cluster's credentials; excludes signed_url."
    )


class GraphGenerationResponse(GraphReply):
    """Answer of /generate-graph where the graph went to storage; else the graph itself is the answer."""

    success: str | None = Field(default=None, description="Where the graph is, without credentials.")
    error: str | None = Field(default=None, description="Why it is not there.")
    url: str | None = Field(default=None, description="URL to read a graph from that went to `destination`.")
    detail: str | None = Field(default=None, description="Why it is not there, in other words than the peer's.")


class SteerFeature(WireModel):
    """A feature to hold at a value: at 0, or at the activation that it has somewhere plus `delta`."""

    model_config = graph_config()

    layer: int = Field(description="Layer of the feature.")
    index: int = Field(description="Index of the feature in its layer.")
    token_active_position: int = Field(description="Position in the prompt where its activation is read.")
    steer_position: int | None = Field(default=None, description="Position in the prompt where it is held.")
    steer_generated_tokens: bool = Field(
        default=False, description="Hold it at every generated token instead. The first one does not feel it."
    )
    delta: Finite | None = Field(default=None, description="Added to the activation that was read.")
    ablate: bool = Field(default=False, description="Hold it at 0.")


class SteerRequest(GraphPromptRequest):
    """A prompt to continue twice: left alone, and with features held."""

    model_config = graph_config(
        {
            "model_id": _DEMO,
            "prompt": "Le chat dort sur",
            "features": [
                {"layer": 1, "index": 17, "token_active_position": 2, "steer_position": 2, "ablate": True},
                {"layer": 1, "index": 42, "token_active_position": 4, "steer_position": 4, "delta": 5},
                {"layer": 1, "index": 42, "token_active_position": 4, "steer_generated_tokens": True, "delta": 5},
            ],
            "n_tokens": 10,
            "top_k": 3,
            "temperature": 0,
            "freq_penalty": 0,
            "freeze_attention": False,
        }
    )

    model_id: str = Field(description="Model to run: a name or alias from /v1/models.")
    features: list[SteerFeature] = Field(description="What to hold; of several on one place the last counts.")
    n_tokens: int = Field(default=10, description="Tokens to generate.")
    top_k: int = Field(default=5, description="Candidates to report after each token.")
    temperature: Finite = Field(default=0.0, description="Randomness of the choice; 0 takes the likeliest token.")
    freq_penalty: Finite = Field(
        default=0,
        description="Taken off a token's logit per time that it stands in the text. Counts above 0 only, and not "
        "where the likeliest token is taken.",
    )
    seed: int | None = Field(default=None, description="Makes the choice repeatable.")
    freeze_attention: bool = Field(
        default=False, description="Read the steered prompt with the attention of the unsteered one."
    )


class TopLogit(GraphReply):
    """A candidate for the next token."""

    token: str = Field(description="The token as text.")
    prob: float = Field(description="Its probability, before temperature and penalty.")


class LogitsByToken(GraphReply):
    """A token, and what may follow it."""

    token: str = Field(description="The token as text.")
    top_logits: list[TopLogit] = Field(description="Candidates, likeliest first; empty before the prompt's last token.")


class SteerResponse(GraphReply):
    """Answer of /steer: both texts, and what might have followed each of their tokens."""

    DEFAULT_GENERATION: str = Field(description="The prompt and what was generated without steering.")
    STEERED_GENERATION: str = Field(description="The same with steering, and one token more.")
    DEFAULT_LOGITS_BY_TOKEN: list[LogitsByToken] = Field(description="The default text's tokens.")
    STEERED_LOGITS_BY_TOKEN: list[LogitsByToken] = Field(
        description="The steered text's tokens, without its last one unless that ended it."
    )


TokenTuple: TypeAlias = tuple[str, list[tuple[str, float]]]


class SteerTuplesResponse(GraphReply):
    """The same with `?format=tuples`: `["token", [["candidate", 0.5], ...]]`."""

    DEFAULT_GENERATION: str = Field(description="The prompt and what was generated without steering.")
    STEERED_GENERATION: str = Field(description="The same with steering, and one token more.")
    DEFAULT_LOGITS_BY_TOKEN: list[TokenTuple] = Field(description="The default text's tokens and what may follow.")
    STEERED_LOGITS_BY_TOKEN: list[TokenTuple] = Field(description="The steered text's.")


class ParseChatPromptRequest(WireModel):
    """A prompt that may be a conversation."""

    model_config = graph_config(
        {"prompt": "<|user|>\nLe chat dort sur le tapis.<|end|>\n<|assistant|>\n", "model_id": _DEMO}
    )

    prompt: str = Field(description="The prompt.")
    model_id: str | None = Field(
        default=None, description="Model whose template it is. May be left out where the cluster serves only one."
    )


class ParseChatPromptResponse(GraphReply):
    """Answer of /parse-chat-prompt: the conversation in a prompt."""

    messages: list[GraphChatMessage] | None = Field(description="Its messages; null if it is not a conversation.")
    is_chat: bool = Field(description="Whether it is one.")
    prompt: str = Field(description="The prompt without a leading BOS.")
    unsteerable_positions: list[int] = Field(description="Positions where /steer ignores features.")


class CheckBusyResponse(GraphReply):
    """Answer of /check-busy."""

    busy: bool = Field(description="Whether a graph that is asked for now would be refused.")
