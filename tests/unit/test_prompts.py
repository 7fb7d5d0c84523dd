from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from core.errors import InvalidRequest
from core.prompts import PromptTokenizer, TokenLimit, check_unicode

TOKENIZERS = {
    build.__name__: PromptTokenizer(build())
    for build in (tiny_tokenizers.gpt2, tiny_tokenizers.gemma, tiny_tokenizers.llama2, tiny_tokenizers.qwen)
}
WITH_BOS = ("gpt2", "gemma", "llama2")
SENTENCE = "The cat sleeps on the mat, été 🐈‍⬛ naïve 中文."

every = pytest.mark.parametrize("name", list(TOKENIZERS))
every_with_bos = pytest.mark.parametrize("name", WITH_BOS)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@every_with_bos
@given(text=texts)
def test_a_prompt_never_gets_two_bos(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    bos = tokenizer.hf.bos_token
    plain = tokenizer.bos_prompt(text)
    assert plain.ids[0] == tokenizer.bos_id
    assert plain.has_bos
    assert plain.ids.count(tokenizer.bos_id) == 1 + text.count(bos)
    assert tokenizer.bos_prompt(bos + text).ids == plain.ids


@every_with_bos
def test_every_way_to_ask_for_bos_gives_the_same_ids(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    literal = tokenizer.hf.bos_token + SENTENCE
    prompt = tokenizer.bos_prompt(SENTENCE)
    assert tokenizer.tokenize(SENTENCE) == tokenizer.tokenize(SENTENCE, True) == prompt
    assert tokenizer.tokenize(literal, True) == prompt
    assert tokenizer.bos_prompt(literal) == prompt


@every
def test_a_prompt_reads_as_its_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.bos_prompt("the cat")
    assert "".join(prompt.strings).removeprefix(tokenizer.hf.bos_token or "").strip() == "the cat"
    assert len(prompt.ids) == len(prompt.strings) == len(prompt.is_special) == len(prompt)


@every
def test_ids_are_those_of_transformers(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    fresh: PreTrainedTokenizerFast = getattr(tiny_tokenizers, name)()
    ids = fresh(SENTENCE)["input_ids"]
    assert list(tokenizer.tokenize(SENTENCE, tokenizer.adds_bos).ids) == ids
    assert list(tokenizer.tokenize(SENTENCE, prepend_bos=False).ids) == ids[tokenizer.adds_bos :]


def test_a_tokenizer_without_bos_just_works() -> None:
    tokenizer = TOKENIZERS["qwen"]
    prompt = tokenizer.bos_prompt(SENTENCE)
    assert tokenizer.bos_id is None
    assert not prompt.has_bos
    assert prompt == tokenizer.vector_prompt(SENTENCE) == tokenizer.tokenize(SENTENCE, True)
    assert not tokenizer.prepends(True)
    assert not tokenizer.prepends(None)


def test_a_vector_gets_bos_only_where_the_tokenizer_writes_one() -> None:
    assert not TOKENIZERS["gpt2"].vector_prompt(SENTENCE).has_bos
    for name in ("gemma", "llama2"):
        tokenizer = TOKENIZERS[name]
        assert tokenizer.vector_prompt(SENTENCE) == tokenizer.bos_prompt(SENTENCE)
        assert tokenizer.vector_prompt(tokenizer.hf.bos_token + SENTENCE) == tokenizer.bos_prompt(SENTENCE)


@every_with_bos
def test_bos_can_be_left_out(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert not tokenizer.tokenize(SENTENCE, prepend_bos=False).has_bos
    assert not tokenizer.prepends(False)
    assert tokenizer.tokenize("", prepend_bos=False).ids == ()


def test_a_tokenizer_that_reads_special_tokens_as_text_still_gets_its_bos() -> None:
    hf = tiny_tokenizers.gpt2()
    hf.split_special_tokens = True
    tokenizer = PromptTokenizer(hf)
    prompt = tokenizer.bos_prompt("hello")
    assert prompt.ids[0] == tokenizer.bos_id
    assert prompt.ids[1:] == tokenizer.tokenize("hello", prepend_bos=False).ids
    assert prompt.ids == tokenizer.bos_prompt("<|endoftext|>hello").ids


@every_with_bos
def test_an_empty_prompt_is_one_bos(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert tokenizer.bos_prompt("").ids == (tokenizer.bos_id,)


@pytest.mark.parametrize("ask", ["bos_prompt", "vector_prompt"])
def test_an_empty_prompt_without_bos_is_refused(ask: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        getattr(TOKENIZERS["qwen"], ask)("")
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        TOKENIZERS["gpt2"].vector_prompt("")


@every
@pytest.mark.parametrize("text", ["\ud800", "good \udc00 bad", "\ude00\ud83d"])
def test_half_a_surrogate_pair_is_the_clients_mistake(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    for ask in (tokenizer.bos_prompt, tokenizer.vector_prompt, tokenizer.tokenize, tokenizer.encode_rendered):
        with pytest.raises(InvalidRequest, match="lone surrogate"):
            ask(text)


@given(text=texts)
def test_whole_characters_are_unicode(text: str) -> None:
    check_unicode(text)


@every
def test_each_token_keeps_its_leading_space(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    strings = tokenizer.tokenize("the cat the cat", prepend_bos=False).strings
    assert strings[-1] == " cat"
    assert "".join(strings).lstrip(" ") == "the cat the cat"


@every
@given(text=texts)
def test_strings_are_one_per_id_whatever_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.tokenize(text)
    assert len(prompt.strings) == len(prompt.ids)
    assert prompt.strings == tuple(tokenizer.str_tokens([id_])[0] for id_ in prompt.ids)


def test_special_tokens_are_told_from_content() -> None:
    gemma = TOKENIZERS["gemma"]
    prompt = gemma.bos_prompt("<start_of_turn>cat<end_of_turn>")
    assert [s for s, special in zip(prompt.strings, prompt.is_special, strict=True) if special] == [
        "<bos>",
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    special = TOKENIZERS["gpt2"].bos_prompt("cat").is_special
    assert special[0]
    assert not any(special[1:])


def test_padding_falls_back_to_eos() -> None:
    assert TOKENIZERS["gemma"].pad_id == TOKENIZERS["gemma"].hf.pad_token_id
    assert TOKENIZERS["llama2"].pad_id == TOKENIZERS["llama2"].hf.eos_token_id
    assert TOKENIZERS["gpt2"].pad_id == TOKENIZERS["gpt2"].bos_id


@every
def test_every_id_is_below_the_vocabulary_size(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert max(tokenizer.bos_prompt(SENTENCE).ids) < tokenizer.vocab_size == len(tokenizer.hf)


def test_a_text_at_the_limit_passes_and_one_token_more_does_not() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    n_tokens = len(tokenizer.bos_prompt(SENTENCE))
    assert len(tokenizer.bos_prompt(SENTENCE, TokenLimit(n_tokens))) == n_tokens
    with pytest.raises(InvalidRequest) as refusal:
        tokenizer.bos_prompt(SENTENCE, TokenLimit(n_tokens - 1, suffix=" for batch requests"))
    assert refusal.value.message == f"Text too long: {n_tokens} tokens, max is {n_tokens - 1} for batch requests"


@every
def test_megabytes_are_refused_without_being_tokenised(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = "The cat sleeps on the mat. " * 400_000
    start = perf_counter()
    with pytest.raises(InvalidRequest, match=r"^Text too long: \d+ tokens, max is 200"):
        tokenizer.bos_prompt(text, TokenLimit(200))
    assert perf_counter() - start < 1  # all of it takes tens of seconds


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (tiny_tokenizers.swallowing_spaces, " " * 50_000 + "<mask>"),
        (tiny_tokenizers.collapsing_spaces, "cat" + " " * 50_000 + "cat"),
    ],
)
def test_a_long_text_of_few_tokens_is_not_refused(build, text: str) -> None:
    tokenizer = PromptTokenizer(build())
    assert len(tokenizer.bos_prompt(text, TokenLimit(20))) <= 10


@every
@given(text=texts, repeats=st.integers(1, 60), limit=st.integers(1, 40))
def test_counting_early_never_changes_the_verdict(name: str, text: str, repeats: int, limit: int) -> None:
    tokenizer = TOKENIZERS[name]
    whole = len(tokenizer.tokenize(text * repeats))
    try:
        tokenizer.tokenize(text * repeats, limit=TokenLimit(limit))
    except InvalidRequest:
        assert whole > limit
    else:
        assert whole <= limit


def test_threads_may_share_a_tokenizer() -> None:
    tokenizer = PromptTokenizer(tiny_tokenizers.gemma())
    expected = tokenizer.bos_prompt(SENTENCE * 20)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(tokenizer.bos_prompt, [SENTENCE * 20] * 64)) == {expected}


def test_settings_left_on_the_tokenizer_do_not_cut_prompts() -> None:
    hf = tiny_tokenizers.gpt2()
    hf.pad_token = hf.eos_token
    hf("cat", truncation=True, max_length=2, padding="max_length")
    tokenizer = PromptTokenizer(hf)
    assert tokenizer.bos_prompt(SENTENCE) == TOKENIZERS["gpt2"].bos_prompt(SENTENCE)


def test_a_saved_tokenizer_loads(tmp_path) -> None:
    tiny_tokenizers.gemma().save_pretrained(tmp_path)
    assert PromptTokenizer.load(str(tmp_path)).bos_prompt(SENTENCE) == TOKENIZERS["gemma"].bos_prompt(SENTENCE)


def test_a_tokenizer_without_a_rust_half_is_refused_at_start() -> None:
    class PythonTokenizer:
        pass

    with pytest.raises(TypeError, match="needs a fast tokenizer"):
        PromptTokenizer(PythonTokenizer())
