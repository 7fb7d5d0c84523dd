"""Pictures and the page: that they are what they say they are, and that no text of a model becomes markup."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from core.autointerp.report.histograms import histograms_png
from core.autointerp.report.page import html_page
from core.autointerp.report.rows import Report

from .made import explanation, report, result, score

EVIL = '<script>alert("1")</script>&amp;<img src=x onerror=alert(2)>\'"'


class Page(HTMLParser):
    """Tags with their attributes, and texts, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def made() -> Report:
    return report(
        explanation(1, "cats"),
        *(score(i, 0.5 + i / 40) for i in range(20)),
        *(score(i, 0.45 + i / 200, "score/default/detection/random-explanation") for i in range(20)),
        *(score(i, i / 20 - 0.5, "score/default/fuzz") for i in range(10)),
    )


def image(content: bytes) -> np.ndarray:
    found = Image.open(io.BytesIO(content))
    found.load()
    assert found.format == "PNG"
    return np.asarray(found.convert("RGB"))


def test_histograms_are_a_picture_with_bars_and_the_baseline_in_colours_of_their_own(made: Report) -> None:
    pixels = image(histograms_png(made))
    for colour in ((0x2A, 0x6F, 0xBB), (0xC9, 0xA5, 0x4C)):
        assert (pixels == colour).all(axis=2).sum() > 100


def test_each_scorer_has_a_panel(made: Report) -> None:
    one = image(histograms_png(report(score(1, 0.5))))
    two = image(histograms_png(made))
    assert two.shape[1] == pytest.approx(2 * one.shape[1], rel=0.01)


def test_without_scores_there_is_still_a_picture() -> None:
    assert image(histograms_png(report(explanation(1, "cats")))).std() > 0


def test_no_text_of_a_model_becomes_markup() -> None:
    made = report(explanation(1, EVIL), result(2, "explain/default", None, reason=EVIL), score(1, None), title=EVIL)
    text = html_page(made, b"")
    page = Page(text)
    assert EVIL in page.texts  # as it was written, and as text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,"]


def test_a_page_fetches_nothing_and_allows_nothing(made: Report) -> None:
    text = html_page(made, histograms_png(made))
    page = Page(text)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert not re.search(r"(?:src|href)\s*=\s*\"(?!data:)", text)
    assert "url(" not in text


def test_the_picture_of_the_page_is_the_one_that_was_given(made: Report) -> None:
    picture = histograms_png(made)
    source = next(a["src"] for tag, a in Page(html_page(made, picture)).tags if tag == "img")
    assert source is not None
    assert base64.b64decode(source.partition(",")[2]) == picture


def test_the_page_has_every_explanation_with_its_scores(made: Report) -> None:
    texts = Page(html_page(made, b"")).texts
    at = texts.index("cats")
    assert "0.525" in texts[at : at + 5]
