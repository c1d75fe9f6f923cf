"""The page of an MNIST recipe: its table over seeds and, for embeddings in a plane, the papers' picture."""

import json
from collections.abc import Mapping, Sequence
from statistics import mean

from training.mnist.picture import Plane, plane_svg
from training.mnist.report import MnistResult, table_lines, title
from training.report.page import Cell, Figure, Page, Section, Table

_READING = (
    "Mean over the seeds, ± the sample standard deviation between them; a single seed has none. Lowest–highest are the "
    "seeds' own. Intervals over images and tests of differences are not made here: with errors this rare, heads whose "
    "ranges overlap are not told apart.",
    "The angle to the own centre is the mean angle between an embedding and the mean direction of its class, over the "
    "images measured.",
)


def mnist_page(results: Sequence[MnistResult], planes: Mapping[str, Plane], *, command: str = "") -> Page:
    """The report of a recipe.

    Args:
        results: at least one.
        planes: embeddings by head, where they lie in a plane.
        command: as it was called.
    """
    first = results[0]
    columns, *rows = table_lines(results)
    table = Table("Every head over its seeds", columns, [[Cell(text) for text in row] for row in rows])
    sections = [Section("results", "Results", text=_READING, tables=(table,))]
    if planes:
        sections.append(_plane_section(planes, first.seed))
    facts = [
        ("seeds", ", ".join(map(str, dict.fromkeys(result.seed for result in results)))),
        ("hardware", "; ".join(dict.fromkeys(result.hardware for result in results))),
        *([("command", command)] if command else []),
    ]
    settings = json.dumps(first.settings, indent=1, ensure_ascii=False)
    sections.append(
        Section("origin", "How this was made", facts=facts, code=(f"The settings of {first.head}", settings))
    )
    return Page(title=title(results), lead=_lead(results), sections=sections)


def _lead(results: Sequence[MnistResult]) -> str:
    heads = dict.fromkeys(result.head for result in results)
    errors = {head: mean(result.error for result in results if result.head == head) for head in heads}
    best = min(errors, key=errors.__getitem__)
    return f"{best} has the lowest mean error of {len(errors)} heads, {errors[best]:.2%}."


def _plane_section(planes: Mapping[str, Plane], seed: int) -> Section:
    text = (
        f"Embeddings of the images measured, with seed {seed}: a point an image, its colour the digit; each line is "
        "the direction of a class's row of weights, with its digit at the end. Both axes are embedding coordinates and "
        "have one scale within a panel, another from panel to panel."
    )
    figures = [
        Figure(f"{name}: {plane.note}", f"embeddings of {name} in the plane", plane_svg(plane, f"plane{k}"), small=True)
        for k, (name, plane) in enumerate(planes.items())
    ]
    return Section("plane", "Embeddings in the plane", text=(text,), figures=figures)
