"""Files that are replaced as a whole: under their name lies the old content or all of the new, also after a kill."""

import os
from pathlib import Path

from facemargin.flushing import flush


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> Path:
    """Write a file beside its place, then rename it.

    Args:
        path: the file; its folder exists.
        content: bytes, or text that is written as UTF-8 with its line ends as they are.
        sync: wait until it is on disk before it takes its name; False for many small files, which then survive a kill
            but perhaps not a power cut.

    Returns:
        ``path``.

    Raises:
        OSError: it cannot be written; the old file is as it was.
        UnicodeEncodeError: text that UTF-8 cannot hold; likewise.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            if sync:
                flush(file)
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
