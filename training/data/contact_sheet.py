"""A contact sheet: some people of a data set, a row each, as one PNG to look at."""

import io
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from facemargin.errors import DataError, ImageError
from training.data.pictures import LabelledImages
from training.whole_file import write_whole

_CELL = 112
_GAP = 6
_MARGIN = 16
_WIDEST_NAME = 260
_PAPER, _INK, _FAINT, _MISSING = "#ffffff", "#1c2430", "#6b7480", "#e9ecf0"
_FONT_PX = 15
_SMALL_PX = 12


def draw_contact_sheet(
    images: LabelledImages, output: Path, *, people: int = 12, pictures: int = 6, title: str = "", seed: int = 0
) -> Path:
    """Draw random people with some of their pictures; equal arguments give an equal sheet.

    Args:
        images: the data set.
        output: a ``.png`` file.
        people: how many people, at most.
        pictures: how many pictures of each, at most.
        title: over the sheet.
        seed: of the draw.

    Returns:
        `output`.

    Raises:
        DataError: another suffix, or a file that cannot be written.
        ValueError: `people` or `pictures` below 1.
    """
    for name, value in (("people", people), ("pictures", pictures)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    require_sheet(output)
    random = np.random.default_rng(seed)
    chosen = random.choice(len(images.people), min(people, len(images.people)), replace=False)
    rows = [_some(np.flatnonzero(images.labels == label), pictures, random) for label in np.sort(chosen)]
    left = _MARGIN + max(_name_width(images, row) for row in rows)
    sheet = _empty_sheet(len(rows), left + max(map(len, rows)) * (_CELL + _GAP) - _GAP + _MARGIN, title)
    for number, row in enumerate(rows):
        _draw_row(sheet, (left, _MARGIN + _top(bool(title)) + number * (_CELL + _GAP)), images, row)
    return _save(sheet, output)


def require_sheet(output: Path) -> None:
    """Refuse a file that a sheet could not be written to, before any picture is read.

    Raises:
        DataError: another suffix, a folder in its place, or no folder that can be written to.
    """
    if output.suffix.lower() != ".png":
        raise DataError(f"a contact sheet is a .png file, not {output}")
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a folder")
    if not output.parent.is_dir():
        raise DataError(f"cannot write {output}: there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise DataError(f"cannot write {output}: no permission to write to {output.parent}")


def _some(rows: NDArray[np.intp], count: int, random: np.random.Generator) -> NDArray[np.intp]:
    return rows if len(rows) <= count else np.sort(random.choice(rows, count, replace=False))


def _name_width(images: LabelledImages, row: NDArray[np.intp]) -> int:
    """Pixels that a name and the gap after it take."""
    lines = ((images.people[images.labels[row[0]]], _FONT_PX), (_note(images, row), _SMALL_PX))
    widest = max(ImageFont.load_default(size).getlength(text) for text, size in lines)
    return min(_WIDEST_NAME, math.ceil(widest)) + _MARGIN


def _note(images: LabelledImages, row: NDArray[np.intp]) -> str:
    count = int((images.labels == images.labels[row[0]]).sum())
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _empty_sheet(rows: int, width: int, title: str) -> Image.Image:
    height = 2 * _MARGIN + _top(bool(title)) + rows * (_CELL + _GAP) - _GAP
    needed = math.ceil(ImageFont.load_default(_FONT_PX).getlength(title)) + 2 * _MARGIN
    sheet = Image.new("RGB", (max(width, needed), height), _PAPER)
    if title:
        _write(sheet, (_MARGIN, _MARGIN), title, _FONT_PX, _INK, needed)
    return sheet


def _top(titled: bool) -> int:
    return _FONT_PX + _MARGIN if titled else 0


def _draw_row(sheet: Image.Image, corner: tuple[int, int], images: LabelledImages, row: NDArray[np.intp]) -> None:
    """A person: name and number of pictures, and from the corner on the pictures."""
    left, y = corner
    middle = y + _CELL // 2
    name = images.people[images.labels[row[0]]]
    _write(sheet, (_MARGIN, middle - _FONT_PX - 2), name, _FONT_PX, _INK, _WIDEST_NAME)
    _write(sheet, (_MARGIN, middle + 4), _note(images, row), _SMALL_PX, _FAINT, _WIDEST_NAME)
    for place, index in enumerate(row.tolist()):
        _draw_picture(sheet, (left + place * (_CELL + _GAP), y), images, index)


def _draw_picture(sheet: Image.Image, corner: tuple[int, int], images: LabelledImages, index: int) -> None:
    try:
        picture = Image.fromarray(images.pictures[index].decode())
    except (DataError, ImageError):
        ImageDraw.Draw(sheet).rectangle((*corner, corner[0] + _CELL - 1, corner[1] + _CELL - 1), fill=_MISSING)
        _write(sheet, (corner[0] + 22, corner[1] + _CELL // 2 - 7), "unreadable", _SMALL_PX, _FAINT, _CELL)
        return
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Enlarged pixels stay pixels: a sheet shows what is there.
    scaled = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    sheet.paste(scaled, (corner[0] + (_CELL - size[0]) // 2, corner[1] + (_CELL - size[1]) // 2))


def _write(sheet: Image.Image, corner: tuple[int, int], text: str, size_px: int, colour: str, width: int) -> None:
    """A line of text, cut with an ellipsis where it is wider than `width`."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size_px)
    shown = text
    while shown and draw.textlength(shown + ("…" if shown != text else ""), font=font) > width:
        shown = shown[:-1]
    draw.text(corner, shown + ("…" if shown != text else ""), font=font, fill=colour)


def _save(sheet: Image.Image, output: Path) -> Path:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        return write_whole(output, buffer.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {output}: {error}") from error
