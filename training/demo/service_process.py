"""The service as a subprocess, and a client for it that needs nothing but the standard library."""

import json
import mimetypes
import queue
import secrets
import shlex
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from facemargin.errors import FacemarginError

ANNOUNCEMENT = "facemargin: serving on "
START_SECONDS = 300.0
STOP_SECONDS = 20.0
_REQUEST_SECONDS = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is on this machine: no proxy


@dataclass(frozen=True)
class Call:
    """One request: what was sent, what came back, and the command that repeats it.

    Attributes:
        status: HTTP status.
        reply: the JSON that came back; empty without a body.
        milliseconds: time taken.
        curl: a command line for a POSIX shell.
    """

    status: int
    reply: dict[str, Any]
    milliseconds: float
    curl: str


class ServiceProcess:
    """``facemargin serve`` in a process of its own, from entering to leaving the context.

    Args:
        bundle: the exported model.
        store: folder of its database.
        log: file that gets the service's output.
        detector: face detector for whole photographs; None leaves the service to find its own.
        port: 0 takes a free one.

    Raises:
        FacemarginError: the service ends, or does not say in time where it listens.
    """

    def __init__(self, bundle: Path, store: Path, log: Path, *, detector: Path | None = None, port: int = 0) -> None:
        self.log = log
        self.command = [sys.executable, "-m", "facemargin", "serve", "--bundle", str(bundle), "--store", str(store)]
        self.command += ["--port", str(port)]
        self.command += ["--detector", str(detector)] if detector else []
        self.url = ""

    def __enter__(self) -> Self:
        """Start it and wait until it says where it listens."""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._stop()

    def wait(self) -> int:
        """Wait until it ends by itself."""
        return self.process.wait()

    def _read(self) -> None:
        with self.log.open("w", encoding="utf-8") as log:
            for line in self.process.stdout or ():
                log.write(line)
                log.flush()
                if not self.url:
                    self._lines.put(line.rstrip())
        self._lines.put(None)

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        seen: list[str] = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                reason = seen[-1] if seen else "no output"
                raise FacemarginError(
                    f"the service ended with exit code {self.process.wait()}: {reason} (log: {self.log})"
                )
            if line.startswith(ANNOUNCEMENT):
                return line.removeprefix(ANNOUNCEMENT).split()[0]
            seen.append(line)
        raise FacemarginError(f"the service did not start within {START_SECONDS:.0f} s (log: {self.log})")

    def _stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(STOP_SECONDS)
        if self.process.stdout:
            self.process.stdout.close()


def call(
    method: str,
    url: str,
    *,
    files: Mapping[str, Path] | None = None,
    fields: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Call:
    """Send a request.

    Args:
        method: GET, PUT, POST or DELETE.
        url: of the route.
        files: parts of a multipart form, by name.
        fields: further parts of the form.
        body: JSON instead of a form.

    Raises:
        FacemarginError: the service answers with an error or not at all.
    """
    data, headers = _form(files or {}, fields or {}) if files else _json(body)
    curl = _curl(method, url, files or {}, fields or {}, body)
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    started = time.perf_counter()
    try:
        with _OPENER.open(request, timeout=_REQUEST_SECONDS) as response:
            content, status = response.read(), response.status
    except urllib.error.HTTPError as error:
        with error:
            problem = error.read().decode("utf-8", "replace")
        raise FacemarginError(f"the service answered {error.code} to {method} {url}: {problem}") from error
    except OSError as error:
        raise FacemarginError(f"the service at {url} does not answer: {error}") from error
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Call(status, json.loads(content) if content else {}, elapsed_ms, curl)


def _json(body: Mapping[str, Any] | None) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def _form(files: Mapping[str, Path], fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    boundary = secrets.token_hex(16)
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    for name, path in files.items():
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        parts.append((f'name="{name}"; filename="image{path.suffix}"\r\nContent-Type: {kind}', path.read_bytes()))
    data = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    return data + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _curl(
    method: str, url: str, files: Mapping[str, Path], fields: Mapping[str, str], body: Mapping[str, Any] | None
) -> str:
    words = ["curl", "-sS"] + (["-X", method] if method not in ("GET", "POST") or not (files or body) else [])
    for name, path in files.items():
        words += ["-F", f'{name}=@"{path}"' if set(str(path)) & set(',;" ') else f"{name}=@{path}"]
    for name, value in fields.items():
        words += ["-F", f"{name}={value}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return shlex.join([*words, url])
