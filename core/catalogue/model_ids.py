"""Names that one model goes by.

Neuronpedia calls a model `gpt2-small`, Hugging Face `openai-community/gpt2`, and SAELens' directory sometimes one,
sometimes the other. A request may use any of them. The pairs below are facts about published models; a model that is
not listed is known by its Hugging Face id alone.
"""

from dataclasses import dataclass

# Neuronpedia id -> Hugging Face id. For -it checkpoints whose SAEs were trained on the base model, see `base_of`.
_HUGGING_FACE_IDS = {
    "deepseek-r1-distill-llama-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "gemma-2-27b": "google/gemma-2-27b",
    "gemma-2-27b-it": "google/gemma-2-27b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-3-12b": "google/gemma-3-12b-pt",
    "gemma-3-12b-it": "google/gemma-3-12b-it",
    "gemma-3-1b": "google/gemma-3-1b-pt",
    "gemma-3-1b-it": "google/gemma-3-1b-it",
    "gemma-3-270m": "google/gemma-3-270m",
    "gemma-3-270m-it": "google/gemma-3-270m-it",
    "gemma-3-27b": "google/gemma-3-27b-pt",
    "gemma-3-27b-it": "google/gemma-3-27b-it",
    "gemma-3-4b": "google/gemma-3-4b-pt",
    "gemma-3-4b-it": "google/gemma-3-4b-it",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt2-small": "openai-community/gpt2",
    "llama3-8b-it": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama3.1-8b-it": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.3-70b-it": "meta-llama/Llama-3.3-70B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "qwen2.5-7b-it": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-14b": "Qwen/Qwen3-14B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
}
_OTHER_SPELLINGS = {"gpt2": "gpt2-small", "meta-llama/Llama-3-8B-Instruct": "llama3-8b-it"}
_BY_HUGGING_FACE_ID = {hugging_face_id: known for known, hugging_face_id in _HUGGING_FACE_IDS.items()}
_INSTRUCT_SUFFIX = "-it"


@dataclass(frozen=True, slots=True)
class ModelNames:
    """All names of one model.

    Attributes:
        id: The name it is served under: the Neuronpedia id if there is one.
        aliases: Other names that requests may use.
        weights: Hugging Face id or local folder of the weights.
    """

    id: str
    aliases: tuple[str, ...]
    weights: str


def names_of(model: str) -> ModelNames:
    """Everything that `model`, in whatever spelling, is called."""
    known = _OTHER_SPELLINGS.get(model) or _BY_HUGGING_FACE_ID.get(model) or model
    weights = _HUGGING_FACE_IDS.get(known)
    if weights is None:
        return ModelNames(model, (), model)
    others = [spelling for spelling, target in _OTHER_SPELLINGS.items() if target == known]
    return ModelNames(known, (weights, *others), weights)


def base_of(model_id: str) -> str | None:
    """The base model of an instruction-tuned one, whose SAEs it can borrow; None for a base model."""
    return model_id.removesuffix(_INSTRUCT_SUFFIX) if model_id.endswith(_INSTRUCT_SUFFIX) else None
