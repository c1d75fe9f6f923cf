"""An HTML page that needs nothing else: sections of text, tables and figures in one template, with its style inside.

Whatever is put into a page is escaped, but for figures, which are made here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from training.report.palette import VARIABLES


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the figure or word.
        note: smaller, below it: an interval, a verdict.
        mark: "best" stands out, "muted" steps back, "bad" warns.
    """

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        columns: names, with units; a name may hold a second line after a newline.
        rows: cells of each row.
        notes: below the table.
        words: columns of words, which are aligned left; the first always is.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    words: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        caption: what it shows and how to read it.
        alternative: for those who cannot see it.
        svg: an ``<svg>`` element of `training.report.svg`.
        small: one of several panels side by side.
    """

    caption: str
    alternative: str
    svg: str
    small: bool = False

    @property
    def markup(self) -> Markup:
        """The element, which is not escaped."""
        return Markup(self.svg)  # made by training.report.svg, where names are drawn and escaped by matplotlib


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its id.
        title: its heading.
        text: paragraphs before everything else.
        tables, figures: in this order.
        legend: name and CSS variable of each colour that the small figures share.
        facts: pairs of name and value.
        code: a listing at the end, with its heading.
    """

    anchor: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    legend: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    code: tuple[str, str] | None = None


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: its heading.
        lead: what was found, in a sentence or two.
        sections: its parts.
        warnings: what the reader must know first.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page as one HTML document: no script, no request, nothing outside it."""
    return _template().render(page=page, variables=VARIABLES)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("training.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
