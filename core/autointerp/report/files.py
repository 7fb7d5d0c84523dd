"""The files of a run: what it came to, readable without Rayscope, and enough to draw it again.

run.json         title, facts, scorers           written when it begins
results.ndjson   a line per result
report.html      the page, the picture inside
scores.png       the picture
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from core.autointerp.report.rows import Line, Report, report_of
from core.errors import InvalidRequest

RUN: Final = "run.json"
RESULTS: Final = "results.ndjson"
PAGE: Final = "report.html"
PICTURE: Final = "scores.png"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is called.

    Attributes:
        title: For people.
        facts: Name and value of what is worth knowing of it.
        scorers: Labels of its scorers.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    scorers: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Writes it into a run's folder."""
        (folder / RUN).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """That of a run's folder.

        Raises:
            InvalidRequest: It has none.
        """
        try:
            found: Any = json.loads((folder / RUN).read_text(encoding="utf-8"))
            facts = tuple((str(name), str(value)) for name, value in found["facts"])
            return cls(str(found["title"]), facts, tuple(map(str, found["scorers"])))
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest(
                f"'{folder}' is not the folder of a run.", "Name one that rayscope autointerp run has written."
            ) from None


def read_lines(folder: Path) -> list[Line]:
    """The results that a run's folder holds; none if none were written."""
    path = folder / RESULTS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(folder: Path, lines: Iterable[Line]) -> None:
    """Writes a run's results."""
    with (folder / RESULTS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines)


def write_report(folder: Path, record: RunRecord, lines: list[Line]) -> Report:
    """Writes page and picture into a run's folder."""
    from core.autointerp.report.histograms import histograms_png
    from core.autointerp.report.page import html_page

    report = report_of(record.title, record.facts, record.scorers, lines)
    picture = histograms_png(report)
    (folder / PICTURE).write_bytes(picture)
    (folder / PAGE).write_text(html_page(report, picture), encoding="utf-8")
    return report
