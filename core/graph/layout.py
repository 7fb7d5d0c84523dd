"""Where the nodes and links of an attribution graph stand in a picture: geometry only, in points, y upward.

    logits      one run, its right end above the last token
    layers      upward, a row for each of which a node is shown
    tokens      a column each, as wide as its fullest cell

Nodes of one token and layer share a cell; in it they stand side by side and above each other, the most influential
first. Rows and columns take the room that they need, so nothing overlaps, however many nodes there are. A graph has
thousands: shown are the most influential, and between them the links over which the most of what makes the outputs
flows, as pruning counts it (`rectangle`), here over the links that the document still has.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from core.graph.document import ERROR, FEATURE, LOGIT, TOKEN, GraphDocument

_BOX_WIDTH: Final = 104.0
_BOX_HEIGHT: Final = 26.0
_GAP: Final = 9.0
_ROW_GAP: Final = 44.0
_TOKEN_WIDTH: Final = 66.0
_CELL_HEIGHT: Final = 4  # boxes above each other before a cell gets another column

# Outputs shown at most.
_MAX_OUTPUTS: Final = 6

Point: TypeAlias = tuple[float, float]

# Rows of a picture below and above the layers'.
_TOKENS: Final = -1
_LOGITS: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its kind (`feature_type`), text and lower left corner."""

    node_id: str
    kind: str
    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A link, by the numbers of its boxes.

    Attributes:
        source: It leaves this box's upper edge.
        target: It enters this box's lower edge.
        flow: What flows over it, from -1 to 1, of what flows into the outputs; the sign is the weight's.
        points: Start, two handles and end of a cubic Bezier curve.
    """

    source: int
    target: int
    flow: float
    points: tuple[Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture without ink.

    Attributes:
        width: From 0, of all boxes.
        height: From 0, of all boxes.
        boxes: Nodes.
        curves: Links, the weakest first.
        rows: Name of each row and the height of its middle, upward.
    """

    width: float
    height: float
    boxes: tuple[Box, ...]
    curves: tuple[Curve, ...]
    rows: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """Nodes of one token and row, the most influential first; outputs, last."""

    row: int
    column: int
    nodes: list[int]
    box_width: float

    @property
    def across(self) -> int:
        """Boxes side by side."""
        return len(self.nodes) if self.row == _LOGITS else -(-len(self.nodes) // _CELL_HEIGHT)

    @property
    def width(self) -> float:
        return self.across * (self.box_width + _GAP) - _GAP

    @property
    def height(self) -> float:
        return -(-len(self.nodes) // self.across) * (_BOX_HEIGHT + _GAP) - _GAP

    def corners(self, left: float, top: float) -> list[tuple[float, float]]:
        """Lower left corner of each node's box, given the cell's upper left."""
        places = (divmod(place, self.across) for place in range(len(self.nodes)))
        return [
            (left + across * (self.box_width + _GAP), top - _BOX_HEIGHT - down * (_BOX_HEIGHT + _GAP))
            for down, across in places
        ]


def lay_out(document: GraphDocument, max_nodes: int, max_links: int) -> Layout:
    """Chooses what to show of a graph and gives everything its place.

    Args:
        document: The graph.
        max_nodes: Features and errors to show at most; those of them without a shown link are left out.
        max_links: Links to show at most.
    """
    shown, links, flows = _choose(document, max_nodes, max_links)
    cells = _cells(document, shown)
    rows = sorted({cell.row for cell in cells})
    heights = [max(cell.height for cell in cells if cell.row == row) for row in rows]
    bottoms = _starts(heights, _ROW_GAP)
    columns = range(1 + max((cell.column for cell in cells), default=0))
    widths = [
        max([_TOKEN_WIDTH, *(cell.width for cell in cells if cell.column == column and cell.row != _LOGITS)])
        for column in columns
    ]
    outputs = max((cell.width for cell in cells if cell.row == _LOGITS), default=0.0)
    width = max(outputs, sum(widths) + _GAP * (len(widths) - 1))
    lefts = _starts(widths, _GAP)
    to_the_right = width - lefts[-1] - widths[-1]  # where the outputs are wider than all columns

    boxes: dict[int, Box] = {}
    for cell in cells:
        row = rows.index(cell.row)
        if cell.row == _LOGITS:
            left = width - cell.width
        else:
            left = to_the_right + lefts[cell.column] + (widths[cell.column] - cell.width) / 2
        corners = cell.corners(left, bottoms[row] + (heights[row] + cell.height) / 2)
        for number, (x, y) in zip(cell.nodes, corners, strict=True):
            node = document.nodes[number]
            boxes[number] = Box(
                node["node_id"], node["feature_type"], _text(document, node), x, y, cell.box_width, _BOX_HEIGHT
            )
    place = {number: at for at, number in enumerate(boxes)}
    curves: list[Curve] = []
    for link, flow in zip(reversed(links), reversed(flows), strict=True):
        source, target = int(document.sources[link]), int(document.targets[link])
        points = _curve(boxes[source], boxes[target], boxes.values(), -1 if len(curves) % 2 else 1)
        curves.append(Curve(place[source], place[target], flow, points))
    return Layout(
        width=width,
        height=bottoms[-1] + heights[-1] if rows else 0.0,
        boxes=tuple(boxes.values()),
        curves=tuple(curves),
        rows=tuple(
            (_row_name(row), bottom + height / 2) for row, bottom, height in zip(rows, bottoms, heights, strict=True)
        ),
    )


def _starts(sizes: list[float], gap: float) -> list[float]:
    """Where each begins when all stand in a line."""
    return list(accumulate((size + gap for size in sizes[:-1]), initial=0.0))


def _curve(source: Box, target: Box, others: Collection[Box], side: int) -> tuple[Point, Point, Point, Point]:
    """From upper to lower edge. What would run straight up behind other boxes bulges to a side."""
    x, y = source.x + source.width / 2, source.y + source.height
    to_x, to_y = target.x + target.width / 2, target.y
    rise = max(18.0, 0.45 * (to_y - y))
    is_upright = abs(to_x - x) < _BOX_WIDTH / 2
    is_hidden = is_upright and any(y < box.y < to_y and box.x < x < box.x + box.width for box in others)
    aside = side * (0.8 * _BOX_WIDTH + 0.05 * rise) if is_hidden else 0.0
    return (x, y), (x + aside, y + rise), (to_x + aside, to_y - rise), (to_x, to_y)


def _choose(document: GraphDocument, max_nodes: int, max_links: int) -> tuple[list[int], list[int], list[float]]:
    """Numbers of the nodes to show, and numbers and flows of the links to show, the strongest first."""
    ranked = sorted(range(len(document.nodes)), key=lambda number: _rank(document.nodes[number]))
    rows = [_row(node) for node in document.nodes]
    tokens = [number for number in ranked if rows[number] == _TOKENS]
    outputs = [number for number in ranked if rows[number] == _LOGITS][:_MAX_OUTPUTS]
    inner = [number for number in ranked if _TOKENS < rows[number] < _LOGITS][:max_nodes]
    visible = np.zeros(len(rows), dtype=np.bool_)
    visible[tokens + outputs + inner] = True
    between = (visible[document.sources] & visible[document.targets]).nonzero()[0]
    flows = _flows(document)[between]
    strongest = np.argsort(-np.abs(flows), kind="stable")[:max_links]
    links = between[strongest]
    touched = {*document.sources[links].tolist(), *document.targets[links].tolist()}
    return sorted(touched.union(tokens, outputs)), links.tolist(), flows[strongest].tolist()


def _flows(document: GraphDocument) -> npt.NDArray[np.float64]:
    """What flows over each link, `[links]`, with its weight's sign; 1 flows into all outputs together."""
    rows = np.array([_row(node) for node in document.nodes])
    through = np.array(
        [
            (node.get("token_prob") or 0.0) if row == _LOGITS else 0.0
            for node, row in zip(document.nodes, rows, strict=True)
        ]
    )
    through /= through.sum() or 1.0
    shares = np.abs(document.weights.astype(np.float64))
    inputs = np.bincount(document.targets, weights=shares, minlength=len(rows))[document.targets]
    shares = np.divide(shares, inputs, out=shares, where=inputs > 0)
    into = rows[document.targets]
    for row in np.unique(into)[::-1]:
        links = (into == row).nonzero()[0]
        arriving = shares[links] * through[document.targets[links]]
        through += np.bincount(document.sources[links], weights=arriving, minlength=len(rows))
    return shares * through[document.targets] * np.sign(document.weights)


def _cells(document: GraphDocument, shown: list[int]) -> list[_Cell]:
    """The shown nodes by token and row."""
    cells: dict[tuple[int, int], _Cell] = {}
    for number in sorted(shown, key=lambda number: _rank(document.nodes[number])):
        node = document.nodes[number]
        row, column = _row(node), node["ctx_idx"]
        width = _TOKEN_WIDTH if row == _TOKENS else _BOX_WIDTH
        cells.setdefault((row, column), _Cell(row, column, [], width)).nodes.append(number)
    for cell in cells.values():
        if cell.row == _LOGITS:
            cell.nodes.reverse()  # the most probable above what leads to it
    return list(cells.values())


def _rank(node: dict[str, Any]) -> float:
    """Small for nodes that matter most."""
    return -(node.get("token_prob") or 0.0) if node["feature_type"] == LOGIT else node.get("influence") or 0.0


def _row(node: dict[str, Any]) -> int:
    if node["feature_type"] == LOGIT:
        return _LOGITS
    return int(node["layer"]) if str(node["layer"]).isdecimal() else _TOKENS


def _row_name(row: int) -> str:
    return {_TOKENS: "tokens", _LOGITS: "output"}.get(row, f"layer {row}")


def _text(document: GraphDocument, node: dict[str, Any]) -> str:
    """What a node's box says: its label where it has one."""
    kind, label = node["feature_type"], node["clerp"].strip()
    if kind == TOKEN:
        return _visible(str(document.metadata["prompt_tokens"][node["ctx_idx"]]))
    if kind == LOGIT and '"' in label:
        token = label[label.index('"') + 1 : label.rindex('"')]
        return f"{_visible(token)}  {node.get('token_prob', 0.0):.0%}"
    if kind == FEATURE:
        return label or f"feature {node['node_id'].split('_')[1]}"
    return label or ("error" if kind == ERROR else kind)


def _visible(token: str) -> str:
    """A token's text with its line breaks shown, and spaces if it is nothing else."""
    shown = token.replace("\n", "↵").replace("\t", "⇥")
    return shown.strip() or shown.replace(" ", "␣")
