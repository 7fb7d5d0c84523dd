"""Draws which features fire on which tokens, as an SVG, from a running cluster's answers.

    python examples/token_heatmap.py "The cat sleeps. Le chat dort." 2-res-demo English=12 French=34 > heatmap.svg

One row per feature, one cell per token; the darker, the stronger, relative to the row's own maximum.
"""

import json
import sys
import urllib.request
from html import escape
from typing import Any

_URL = "http://127.0.0.1:5002/v1/activation/single"
_CELL_H, _LABEL_W, _CHAR_W, _PAD = 30, 130, 8.2, 12
_COLOURS = ("31,119,180", "214,39,40", "44,160,44", "148,103,189", "255,127,14", "23,190,207")


def ask(text: str, source: str, index: str, url: str = _URL) -> dict[str, Any]:
    """The feature's activations on the text."""
    body = {"prompt": text, "model": "rayscope-demo", "source": source, "index": index}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def draw(answers: dict[str, dict[str, Any]]) -> str:
    """An SVG of named answers over the same tokens."""
    tokens: list[str] = next(iter(answers.values()))["tokens"]
    widths = [max(2, len(token)) * _CHAR_W + _PAD for token in tokens]
    width, height = _LABEL_W + sum(widths), _CELL_H * (len(answers) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" font-family="monospace" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, (name, answer) in enumerate(answers.items()):
        parts.append(_text(4, row, name))
        left = float(_LABEL_W)
        peak = answer["activation"]["maxValue"] or 1.0
        colour = _COLOURS[row % len(_COLOURS)]
        for value, cell in zip(answer["activation"]["values"], widths, strict=True):
            strength = value / peak
            parts.append(
                f'<rect x="{left:.1f}" y="{row * _CELL_H + 2}" width="{cell - 2:.1f}" height="{_CELL_H - 4}" rx="4" '
                f'fill="rgba({colour},{0.06 + 0.94 * strength:.2f})"><title>{value:.2f}</title></rect>'
            )
            left += cell
    left = float(_LABEL_W)
    for token, cell in zip(tokens, widths, strict=True):
        parts.append(_text(left + 2, len(answers), token.strip() or "·"))
        left += cell
    return "".join([*parts, "</svg>\n"])


def _text(x: float, row: int, text: str) -> str:
    return f'<text x="{x:.1f}" y="{row * _CELL_H + 20}">{escape(text)}</text>'


def main(text: str, source: str, *features: str) -> None:
    """Asks for each `name=index` and prints the picture."""
    named = dict(feature.split("=", 1) for feature in features)
    print(draw({name: ask(text, source, index) for name, index in named.items()}), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
