"""A Milvus server for tests: milvus-lite in a process of its own, which can be killed and started again."""

import socket
import subprocess
import sys
import time
from pathlib import Path


class MilvusServer:
    """A server on a port of this machine, with its data in a folder.

    Args:
        folder: made where it is missing.
        start: whether to start it at once.

    Attributes:
        url: as the setting `index` takes it.
    """

    def __init__(self, folder: Path, *, start: bool = True) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"milvus://127.0.0.1:{self._port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        code = "import sys, milvus_lite.adapter.grpc.server as lite; lite.run_server(*sys.argv[1:3], int(sys.argv[3]))"
        command = [sys.executable, "-c", code, str(self._folder), "127.0.0.1", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("milvus-lite did not start")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
