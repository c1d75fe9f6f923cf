"""What every reply says to browsers, and which host names are answered to. Pure ASGI, so that bodies stream."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.errors import HostNotAllowedError
from service.rate_limits import Allowance
from service.security import is_loopback

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
HSTS = "max-age=31536000"
_SWAGGER = "/docs"
_SWAGGER_POLICY = "frame-ancestors 'none'"  # its page brings inline scripts; it is off unless a setting turns it on


class SecurityHeaders:
    """Add `SECURITY_HEADERS` to every reply, where its route has not said otherwise, and the caller's rate limit.

    Args:
        app: what is inside.
        hsts: whether to add Strict-Transport-Security.
    """

    def __init__(self, app: ASGIApp, hsts: bool) -> None:
        self.app = app
        wanted = SECURITY_HEADERS | ({"Strict-Transport-Security": HSTS} if hsts else {})
        self._headers = [(name.lower().encode(), value.encode()) for name, value in wanted.items()]
        policy = (b"content-security-policy", _SWAGGER_POLICY.encode())
        self._swagger = [policy if name == policy[0] else (name, value) for name, value in self._headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wanted = self._swagger if scope["path"] == _SWAGGER else self._headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = list(message.get("headers", ()))
                names = {name.lower() for name, _ in said}
                allowance: Allowance | None = scope.get("state", {}).get("allowance")
                more = allowance.headers if allowance is not None else []
                message["headers"] = said + [header for header in wanted if header[0] not in names] + more
            await send(message)

        await self.app(scope, receive, send_with_headers)


class AllowedHosts:
    """Refuse requests for other host names than the given ones; none given: all are answered.

    Args:
        app: what is inside.
        hosts: names without ports. This machine's own names are always answered: a health check asks for them.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http" or not self._hosts or self._answers(Headers(scope=scope).get("Host", "")):
            await self.app(scope, receive, send)
            return
        error = HostNotAllowedError("this service does not answer to this host name (setting allowed_hosts)")
        body = problems.describe(error) | {"request_id": scope["state"]["request_id"]}
        await problems.reply(body, {"Connection": "close"})(scope, receive, send)

    def _answers(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name)
