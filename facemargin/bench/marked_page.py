"""A page that people write, with blocks that a program fills: ``<!-- measured NAME -->`` … ``<!-- end NAME -->``."""

import os
import re
from pathlib import Path

from facemargin.errors import ConfigError


def fill(page: Path, name: str, text: str) -> None:
    """Put text between the marks of a block; the page is replaced as a whole.

    Raises:
        ConfigError: the page cannot be read, or does not have the block exactly once.
    """
    begin, end = f"<!-- measured {name} -->", f"<!-- end {name} -->"
    try:
        content = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{page} cannot be read: {error}") from error
    block = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if len(block.findall(content)) != 1:
        raise ConfigError(f"{page} must have one block from '{begin}' to '{end}'")
    replace_text(page, block.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", content))


def replace_text(path: Path, text: str) -> None:
    """Write a file beside the one that may be there, then put it in its place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def markdown_table(titles: list[str], rows: list[list[str]]) -> str:
    """A table; all columns but the first are aligned to the right."""
    rule = "|---|" + "---:|" * (len(titles) - 1)
    return "\n".join([f"| {' | '.join(titles)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])
