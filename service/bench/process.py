"""The service as a process, and the processor time that it used."""

import contextlib
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facemargin.errors import FacemarginError

START_SECONDS = 120.0
_ADDRESS = re.compile(r"serving on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Served:
    """A running service.

    Attributes:
        pid: of its process.
        port: on this machine.
    """

    pid: int
    port: int

    def processor_seconds(self) -> float:
        """Processor time of all its threads since its start (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(bundle: Path, **settings: int) -> Iterator[Served]:
    """Start ``facemargin serve`` with a store of its own; it ends with the block.

    Args:
        bundle: the model.
        settings: as `service.settings.Settings`.

    Raises:
        FacemarginError: it does not start.
    """
    environment = os.environ | {f"FACEMARGIN_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "facemargin", "serve", "--bundle", str(bundle), "--store", f"{folder}/store"]
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        try:
            yield Served(process.pid, _port(process, bundle))
        finally:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _port(process: subprocess.Popen[str], bundle: Path) -> int:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    found = _ADDRESS.search(process.stdout.readline()) if ready else None
    if found is None:
        raise FacemarginError(f"the service of {bundle} does not start; try `facemargin serve --bundle {bundle}`")
    return int(found[1])
