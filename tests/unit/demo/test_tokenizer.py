"""The tokenizer keeps its ids, adds one `<bos>`, loses no text, and renders chats as the corpus wrote them."""

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from core.demo import ARTEFACTS
from core.demo.chats import render
from core.demo.tokenizer import BOS_ID, END_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS

MESSAGES = [
    {"role": "system", "content": "Tu es un pirate. Reste dans ton rôle."},
    {"role": "user", "content": "Bonjour !"},
    {"role": "assistant", "content": "Ohé !"},
]


@pytest.fixture(scope="module")
def auto():
    return AutoTokenizer.from_pretrained(ARTEFACTS / "model")


def test_ids_of_special_tokens_are_fixed(auto):
    assert auto.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (auto.pad_token_id, auto.bos_token_id, auto.eos_token_id) == (PAD_ID, BOS_ID, EOS_ID) == (0, 1, 2)


def test_exactly_one_bos_is_added_by_the_tokenizer_itself(auto):
    assert auto("Le chat dort.")["input_ids"].count(BOS_ID) == 1
    assert auto("Le chat dort.")["input_ids"][0] == BOS_ID
    assert BOS_ID not in auto("Le chat dort.", add_special_tokens=False)["input_ids"]
    assert auto("")["input_ids"] == [BOS_ID]


@pytest.mark.parametrize(
    "text",
    [
        "Le chat dort sur l'école.",
        "¿Cuántos años tienes?  Dos   espacios\n\ny líneas\t.",
        "🙂 👩‍👩‍👧 東京 Привет \u0301e \x00 fin",
        "France's don't 123456 3+4=7 <html> |x|",
        " leading and trailing ",
    ],
)
def test_any_text_survives_a_round_trip(auto, text):
    ids = auto(text, add_special_tokens=False)["input_ids"]
    assert auto.decode(ids) == text


def test_numbers_and_elided_articles_are_recognisable_tokens(auto):
    assert auto.tokenize("3 + 4 = 7") == ["3", "Ġ+", "Ġ4", "Ġ=", "Ġ7"]
    assert "Ġl'" in auto.tokenize("La capitale de l'Italie")


def test_chat_markers_are_single_special_tokens(auto):
    for marker in SPECIAL_TOKENS[3:]:
        assert auto(marker, add_special_tokens=False)["input_ids"] == [SPECIAL_TOKENS.index(marker)]
        assert marker in auto.all_special_tokens


def test_the_chat_template_writes_what_the_corpus_wrote(auto):
    rendered = auto.apply_chat_template(MESSAGES, tokenize=False)
    assert rendered == "<bos>" + render(MESSAGES)


def test_a_generation_prompt_opens_the_assistants_turn(auto):
    without = auto.apply_chat_template(MESSAGES[:2], tokenize=False)
    opened = auto.apply_chat_template(MESSAGES[:2], tokenize=False, add_generation_prompt=True)
    assert opened == without + "<|assistant|>\n"
    ids = auto(opened, add_special_tokens=False)["input_ids"]
    assert ids.count(BOS_ID) == 1
    assert ids.count(END_ID) == 2


def test_the_last_turn_can_be_left_open(auto):
    rendered = auto.apply_chat_template(MESSAGES, tokenize=False, continue_final_message=True)
    assert rendered.endswith("<|assistant|>\nOhé !")


def test_an_unknown_role_is_refused(auto):
    with pytest.raises(TemplateError, match="roles are"):
        auto.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
