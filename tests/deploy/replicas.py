"""Stand-ins for replicas of the service: they record what they are asked, and can be busy, cut off or killed."""

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["answer", "busy", "cut"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Asked:
    """A request as a replica saw it; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Replica:
    """One replica: `ready` is what /health/ready says, `manner` what becomes of every other request."""

    name: str
    port: int = field(default_factory=free_port)
    ready: bool = True
    manner: Manner = "answer"
    asked: list[Asked] = field(default_factory=list)
    _server: Any = None

    def start(self) -> None:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """Close the door and every connection, as the end of a process does."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", replica.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one piece: between them, a reply could be cut where no proxy can mend it
    server: _Server

    def _handle(self) -> None:
        replica = self.server.replica
        if self.path == "/health/ready":
            self._reply(200 if replica.ready else 503, {"host": self.headers["Host"]})
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        replica.asked.append(Asked(self.command, self.path, headers, body))
        if replica.manner == "cut":
            self.close_connection = True
        else:
            self._reply(200 if replica.manner == "answer" else 503, {"replica": replica.name, "bytes": len(body)})

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-ID", self.headers.get("X-Request-ID", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""
