"""Logos of our blocks that show without internet.

Prefect 3.8 takes a block type's logo only as an address, and refuses ``data:`` ones; its own logos come from a server
on the internet. The Prefect server of ``hyperexport serve`` sends ours itself. Another server shows none.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from prefect.client.schemas.objects import BlockType
from prefect.settings import PREFECT_API_URL
from pydantic import HttpUrl

_PATH: Final = "/hyperexport-logos/"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_FRAME: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="12" fill="#14532d"/>'
    '<g fill="none" stroke="#bbf7d0" stroke-width="4" stroke-linecap="round">'
)
_SERVERS: Final = (
    '<rect x="14" y="14" width="36" height="14" rx="3"/><rect x="14" y="36" width="36" height="14" rx="3"/>'
    '<path d="M22 21h.1M22 43h.1M32 21h10M32 43h10"/>'
)
_SLIDERS: Final = (
    '<path d="M14 20h36M14 32h36M14 44h36"/>'
    '<g fill="#14532d"><circle cx="24" cy="20" r="4"/><circle cx="40" cy="32" r="4"/>'
    '<circle cx="28" cy="44" r="4"/></g>'
)
_LOGOS: Final = {"vsphere-credentials": _SERVERS, "export-profile": _SLIDERS}

Application = Callable[..., Awaitable[None]]


class BlockWithLogo(Block):
    """A block whose logo comes from the Prefect server of ``hyperexport serve`` on this machine.

    Prefect 3.8 makes the JSON schema of each block class when it is defined, to find its slug in it: for ours, a
    twentieth of what a short run takes.
    """

    @classmethod
    def __dispatch_key__(cls) -> str | None:
        return cls.get_block_type_slug()

    @classmethod
    def _to_block_type(cls) -> BlockType:
        api = PREFECT_API_URL.value() or ""
        made = super()._to_block_type()
        if urlsplit(api).hostname not in _LOOPBACK:
            return made
        return made.model_copy(update={"logo_url": HttpUrl(f"{api.removesuffix('/api')}{_PATH}{made.slug}.svg")})


class Logos:
    """Answers for the logos of our blocks, and leaves every other request to the application."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Send a logo, or pass the request on."""
        slug = str(scope.get("path", "")).removeprefix(_PATH).removesuffix(".svg")
        if scope["type"] == "http" and scope["path"] == f"{_PATH}{slug}.svg" and slug in _LOGOS:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"image/svg+xml")]})
            await send({"type": "http.response.body", "body": f"{_FRAME}{_LOGOS[slug]}</g></svg>".encode()})
        else:
            await self._app(scope, receive, send)
