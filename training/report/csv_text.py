"""Tables as CSV text."""

import csv
import io
from collections.abc import Iterable, Sequence


def as_csv(lines: Iterable[Sequence[object]]) -> str:
    """Lines of cells as CSV text; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
