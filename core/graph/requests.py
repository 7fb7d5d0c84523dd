"""What the graph deployments are asked and what they answer. Plain data: crosses process borders, imports no torch.

Text stays with the Gateway, as for generation: prompts arrive as token ids, answers are token ids. Numbers have been
checked against a `GraphDescription` when they arrive here.

Deliberately not here: graphs themselves. They travel between the stages by reference and are no part of an answer.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """How much one graph request may ask for.

    Attributes:
        token_limit: Tokens of a graph's prompt; special tokens that are added to it do not count.
        generation_limit: Tokens that an intervention may generate.
        max_feature_nodes: Features of a graph whose request does not say.
        most_feature_nodes: Features of a graph at most.
        most_logits: Targets of a graph at most, and tokens that a forward pass reports.
        batch_rows: Target rows at once at most. A tuning knob: a request that asks for more gets this.
        most_interventions: Features that one request may steer.
        most_candidates: Next tokens that may be reported after each token.
    """

    token_limit: int = 64
    generation_limit: int = 256
    max_feature_nodes: int = 10_000
    most_feature_nodes: int = 50_000
    most_logits: int = 100
    batch_rows: int = 256
    most_interventions: int = 256
    most_candidates: int = 100


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """One served transcoder set: enough to check a request without touching a device.

    Attributes:
        transcoder_set: Its name, on the wire `scan`.
        n_layers: Layers of the model.
        n_features: Features of each layer.
        limits: What a request may ask for.
    """

    transcoder_set: str
    n_layers: int
    n_features: int
    limits: GraphLimits


@dataclass(frozen=True, slots=True)
class GraphPrompt:
    """A prompt as all graph routes read it; see `core.graph.prompt`.

    Attributes:
        ids: Token ids, at least one.
        n_silent: Leading positions whose features count as inactive: attention sinks, where transcoders mean nothing.
    """

    ids: tuple[int, ...]
    n_silent: int


@dataclass(frozen=True, slots=True)
class AttributionOptions:
    """Which nodes a graph has before it is pruned.

    Attributes:
        max_n_logits: Most salient tokens to explain.
        desired_logit_prob: Stop with the token that brings their probability up to this.
        batch_size: Target rows at once. Features that are ranked more than once are ranked after so many such batches.
        max_feature_nodes: Features to keep, None for all.
        targets: Token ids to explain in place of the salient ones.
    """

    max_n_logits: int = 10
    desired_logit_prob: float = 0.95
    batch_size: int = 48
    max_feature_nodes: int | None = 10_000
    targets: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class PruningOptions:
    """What of it is shown; both lie in [0, 1].

    Attributes:
        node_threshold: Share of all influence that the kept nodes have.
        edge_threshold: Share that the kept edges have.
    """

    node_threshold: float = 0.8
    edge_threshold: float = 0.98


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a graph goes; neither address: into the answer.

    Attributes:
        signed_url: URL to PUT it to. Its query is a credential.
        destination: `s3://bucket/key`, written with the cluster's credentials.
        compress: Whether to gzip it on the way.
    """

    signed_url: str | None = None
    destination: str | None = None
    compress: bool = False

    def __repr__(self) -> str:
        signed = None if self.signed_url is None else "..."
        return f"Delivery(signed_url={signed!r}, destination={self.destination!r}, compress={self.compress})"


@dataclass(frozen=True, slots=True)
class GraphQuestion:
    """A graph to make.

    Attributes:
        prompt: What it explains.
        attribution: Its nodes.
        pruning: What of it is shown.
        slug: Its name.
        creator: Who it is shown to be by; None: nobody said.
        labels: `(layer, feature)` to text, shown on the features' nodes.
        delivery: Where it goes.
    """

    prompt: GraphPrompt
    attribution: AttributionOptions
    pruning: PruningOptions
    slug: str
    creator: str | None
    labels: dict[tuple[int, int], str]
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class ForwardPassQuestion:
    """What comes after a prompt?

    Attributes:
        prompt: Token ids.
        max_n_logits: Most tokens to report.
        desired_logit_prob: Stop with the token that brings their probability up to this.
    """

    prompt: tuple[int, ...]
    max_n_logits: int
    desired_logit_prob: float


@dataclass(frozen=True, slots=True)
class ForwardPassAnswer:
    """The likeliest next tokens, likeliest first, and their probabilities."""

    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Intervention:
    """A feature held at a value.

    Attributes:
        layer: Layer of the feature.
        index: Which of its features.
        active_position: Where its unsteered activation is read, in the prompt.
        position: Where it is held, in the prompt; None: at every generated token.
        delta: Held at the activation read plus this; None: held at 0.
    """

    layer: int
    index: int
    active_position: int
    position: int | None
    delta: float | None


@dataclass(frozen=True, slots=True)
class InterventionQuestion:
    """A prompt to continue twice: left alone, and with features held.

    Attributes:
        prompt: The prompt.
        interventions: What is held. Of several on one feature at one position the last counts.
        n_tokens: Tokens to generate; the steered text gets one more.
        top_k: Likeliest next tokens to report after each token.
        temperature: 0 takes the likeliest token.
        frequency_penalty: Taken off a logit, after the temperature, once per time that the token stands in the text,
            the prompt included. Counts only if both it and the temperature are above 0.
        seed: Makes the choice repeatable; both texts begin with it. None: fresh randomness.
        freeze_attention: Whether the steered prompt is read with the attention patterns of the unsteered one.
        stop_ids: Tokens that end a text; the ending token is part of it.
    """

    prompt: GraphPrompt
    interventions: tuple[Intervention, ...]
    n_tokens: int = 10
    top_k: int = 5
    temperature: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    freeze_attention: bool = False
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class WrittenText:
    """One of the two texts.

    Attributes:
        tokens: Token ids, the prompt included.
        n_prompt: How many of them are the prompt.
        top: Row i: the likeliest tokens `(id, probability)` after token `n_prompt - 1 + i`, likeliest first; the
            model's own softmax, without temperature and penalty.
    """

    tokens: tuple[int, ...]
    n_prompt: int
    top: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class InterventionAnswer:
    """Both texts. The default one has as many tokens as it has rows; the steered one may have one token more."""

    default: WrittenText
    steered: WrittenText
