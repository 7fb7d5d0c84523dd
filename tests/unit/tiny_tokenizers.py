"""Small tokenizers of the families that matter, built in memory: GPT-2, Gemma, Llama-2, Llama-3, Qwen in miniature."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Le chat dort sur le tapis. The cat sleeps on the mat. Die Katze schläft auf der Matte.",
    "The quick brown fox jumps over the lazy dog, and the user asked the assistant for more.",
    "system user assistant model hello world 0123456789 <think> </think>",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# A persona of its own unless the caller brings a system message, as in Qwen2.5.
CHATML_WITH_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
)
# Reasoning is dropped from earlier assistant turns, as in Qwen3.
CHATML_DROPPING_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Refuses a conversation in which no user speaks, as in Qwen3.5.
CHATML_NEEDING_A_USER = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('No user query found in messages.') }}{% endif %}" + CHATML
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# The system message becomes the head of the first user turn, as in Gemma 3.
GEMMA_FOLDING_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ head if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n{{ system }}<|eot_id|>"
    "{% for m in rest %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def _special(*tokens: str) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _byte_level(specials: list[str], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=_special(*specials),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece(specials: list[str], normalizer: normalizers.Normalizer, decoder: decoders.Decoder) -> Tokenizer:
    pieces = [*specials, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    text = "".join(CORPUS)
    pieces += sorted(set(text) - {" "})
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("c", "a"), ("ca", "t"), ("\u2581", "cat"), ("h", "e")]
    pieces += [a + b for a, b in merges]
    vocab = {piece: id_ for id_, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.add_special_tokens(_special(*specials, "<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    return tokenizer


def _prepending(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def gpt2() -> PreTrainedTokenizerFast:
    """Byte-level; BOS is EOS and never written by the tokenizer itself."""
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=_byte_level([end]), bos_token=end, eos_token=end, unk_token=end)


def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece with byte fallback; writes BOS by itself."""
    tokenizer = _sentencepiece(
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        normalizers.Replace(" ", "\u2581"),
        decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_prepending(tokenizer, "<bos>"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=GEMMA,
    )


def llama2() -> PreTrainedTokenizerFast:
    """SentencePiece whose decoder strips the first token's space; writes BOS by itself and has no padding."""
    tokenizer = _sentencepiece(
        ["<s>", "</s>"],
        normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
        decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_prepending(tokenizer, "<s>"), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def llama3() -> PreTrainedTokenizerFast:
    """Byte-level; writes BOS by itself."""
    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_prepending(_byte_level(specials), specials[0]),
        bos_token=specials[0],
        eos_token=specials[1],
        chat_template=LLAMA3,
    )


def qwen() -> PreTrainedTokenizerFast:
    """Byte-level with a normaliser; has no BOS at all."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(specials, normalizers.NFC()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


def swallowing_spaces() -> PreTrainedTokenizerFast:
    """GPT-2 with a mask token that takes every space before it, as in RoBERTa, and with spaces that never merge."""
    tokenizer = gpt2()
    tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, special=True, normalized=False)})
    return tokenizer


def collapsing_spaces() -> PreTrainedTokenizerFast:
    """GPT-2 with a normaliser that writes any run of spaces as one."""
    end = "<|endoftext|>"
    backend = _byte_level([end], normalizers.Replace(Regex(" +"), " "))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)
