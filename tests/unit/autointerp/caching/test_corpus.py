import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts, WindowShape, documents, token_parts
from core.errors import InvalidRequest, Unavailable

TEXTS = ["The dog runs.", "Le chat dort.\nIl pleut.", "La casa es grande."]


def parts_of(texts, tokenizer, shape, max_windows=10**9):
    return list(token_parts(texts, tokenizer, shape, max_windows))


def test_all_kinds_of_file_give_the_same_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS) + "\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    parquet.write_table(pa.table({"n": [1, 2, 3], "body": TEXTS}), tmp_path / "c.parquet")
    stripped = {
        name: [text.strip() for text in documents(FileTexts((str(tmp_path / name),), "body"))]
        for name in ("a.txt", "b.jsonl", "c.parquet")
    }
    assert stripped == dict.fromkeys(stripped, TEXTS)
    assert [text.strip() for text in documents(FileTexts((str(tmp_path),), "body"))] == TEXTS * 3


def test_a_data_set_on_disk_is_read_by_its_column(tmp_path):
    parquet.write_table(pa.table({"body": TEXTS}), tmp_path / "train.parquet")
    assert list(documents(DatasetTexts(str(tmp_path), column="body"))) == TEXTS


def test_a_data_set_that_is_not_there_is_said_to_be_unavailable():
    with pytest.raises(Unavailable, match="nobody/nothing"):
        list(documents(DatasetTexts("nobody/nothing")))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "x", "not a kind of file"),
        ("a.jsonl", "{", "Line 1"),
        ("a.jsonl", '{"other": "x"}', "no text under 'text'"),
        ("a.jsonl", '{"text": 3}', "no text under 'text'"),
        ("a.jsonl", "[]", "no text under 'text'"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_by_name(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=says):
        list(documents(FileTexts((str(tmp_path / name),))))


def test_a_missing_file_and_a_missing_column_are_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"no file 'gone\.txt'"):
        list(documents(FileTexts((str(tmp_path / "gone.txt"),))))
    parquet.write_table(pa.table({"body": TEXTS}), tmp_path / "c.parquet")
    with pytest.raises(InvalidRequest, match="no column 'text'"):
        list(documents(FileTexts((str(tmp_path / "c.parquet"),))))


def test_windows_hold_the_documents_one_after_the_other_and_nothing_else(tokenizer):
    texts = list(documents(DemoTexts(40)))
    (part,) = parts_of(texts, tokenizer, WindowShape(10, windows_per_part=1000))
    stream = [token for text in texts for token in [*tokenizer.hf(text, add_special_tokens=False)["input_ids"], 2]]
    assert (part.tokens[:, 0] == tokenizer.bos_id).all()
    whole = len(stream) // 9 * 9
    assert part.tokens[:, 1:].ravel().tolist() == stream[:whole]


def test_without_bos_windows_hold_text_only(tokenizer):
    (part,) = parts_of(TEXTS, tokenizer, WindowShape(5, prepend_bos=False))
    assert tokenizer.bos_id not in part.tokens


@pytest.mark.parametrize("per_part", [1, 3, 7, 100])
def test_part_boundaries_do_not_change_what_is_read(tokenizer, per_part):
    texts = list(documents(DemoTexts(40)))
    (whole,) = parts_of(texts, tokenizer, WindowShape(10, windows_per_part=1000), 20)
    parts = parts_of(texts, tokenizer, WindowShape(10, windows_per_part=per_part), 20)
    assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    assert [part.first_window for part in parts] == list(range(0, 20, per_part))
    assert [part.number for part in parts] == list(range(len(parts)))


def test_a_window_that_is_no_window_is_refused():
    with pytest.raises(InvalidRequest):
        WindowShape(1)
    with pytest.raises(InvalidRequest):
        WindowShape(64, windows_per_part=2**16 + 1)
