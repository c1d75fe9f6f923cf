"""The console at `/`: a page and its files. They hold no data, so no key is asked for; the page's calls need one.

Not part of the API, so not of its document. The policy lets the page load from and talk to this service alone.
"""

from fastapi import APIRouter, Response

from service.console import PAGE, load_assets
from service.errors import NotFoundError

router = APIRouter(include_in_schema=False)

_ASSETS = load_assets()
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file(PAGE)


@router.get("/console/{name}")
async def file(name: str) -> Response:
    """A script, the style or the icon of the page."""
    return _file(name)


def _file(name: str) -> Response:
    if name not in _ASSETS:
        raise NotFoundError(f"the console has no file '{name}'")
    return Response(_ASSETS[name].content, media_type=_ASSETS[name].media_type, headers=HEADERS)
