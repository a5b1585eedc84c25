"""Pages and the assets that they name, made ready for browsers and a CDN when the app is made, served from memory.

1. Every file of the site's folder but its pages gets a name with the hash of its content, `/static/NAME.HASH.EXT`: it may
   be kept for ever, for other content has another name. A page names it by `asset("NAME.EXT")`.
2. Pages are Jinja templates with escaped values. They keep their address, so a copy is asked about each time (ETag, 304).
3. What shrinks is compressed once; `Accept-Encoding` chooses, and each encoding has an ETag of its own.

A path is looked up in a table, so no path leads to another file. Pages may load nothing from other hosts: the
Content-Security-Policy says so. Not covered: ranges, brotli and zstd (a CDN compresses for itself), assets that name
assets.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse

FOLDER = Path(__file__).with_name("site")
STATIC = "/static/"
FOR_EVER = "public, max-age=31536000, immutable"
ASK_FIRST = "no-cache"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".css": "text/css", ".svg": "image/svg+xml", ".js": "text/javascript", ".html": "text/html"}
"""Not left to the machine's own table, which may lack or change them."""
HASH = 16
"""Hexadecimal digits in a name: 64 bits, against chance; nobody but the operator chooses content."""


@dataclass(frozen=True)
class Content:
    """Bytes under an address. headers: beside those of every content."""

    body: bytes
    media_type: str
    cache: str
    headers: dict[str, str] = field(default_factory=dict)

    @cached_property
    def zipped(self) -> bytes | None:
        """None where it would not be smaller."""
        made = gzip.compress(self.body, 9, mtime=0)
        return made if len(made) < len(self.body) else None

    @cached_property
    def _tags(self) -> tuple[str, str]:
        digest = hashlib.sha256(self.body).hexdigest()[: 2 * HASH]
        return f'"{digest}"', f'"{digest}-gzip"'

    def reply(self, asked: Headers) -> Response:
        """To a GET or a HEAD."""
        zipped = self.zipped if takes_gzip(asked.get("accept-encoding", "")) else None
        tag = self._tags[zipped is not None]
        headers = {
            "Cache-Control": self.cache,
            "ETag": tag,
            "X-Content-Type-Options": "nosniff",
            **self.headers,
        }
        if self.zipped is not None:
            headers["Vary"] = "Accept-Encoding"
        if zipped is not None:
            headers["Content-Encoding"] = "gzip"
        if _known(asked.get("if-none-match", ""), tag):
            return NotModifiedResponse(Headers(headers))
        return Response(self.body if zipped is None else zipped, media_type=self.media_type, headers=headers)


class Site:
    """A folder of pages and assets. Raises what the file system raises."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.assets: dict[str, Content] = {}
        self._names: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix != ".html":
                self._add(path)
        self._templates = Environment(
            loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.globals["asset"] = self.address

    def address(self, name: str) -> str:
        """Raises KeyError for an asset that is not there: a page never names one in vain."""
        return self._names[name]

    def page(self, name: str, **values: Any) -> Content:
        body = self._templates.get_template(name).render(values).encode()
        return Content(body, TYPES[".html"], ASK_FIRST, {"Content-Security-Policy": POLICY})

    def _add(self, path: Path) -> None:
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:HASH]
        address = f"{STATIC}{path.stem}.{digest}{path.suffix}"
        self.assets[address] = Content(body, media_type(path), FOR_EVER)
        self._names[path.name] = address


def install(app: FastAPI, pages: dict[str, Callable[[Site], Content]], site: Site | None = None) -> None:
    """Serve the site's assets, and each page at its address. A page is made when it is first asked for."""
    made, contents = site or Site(), dict[str, Content]()

    def asset(request: Request) -> Response:
        if (found := made.assets.get(request.scope["path"])) is None:
            raise HTTPException(404, "Not Found")
        return found.reply(request.headers)

    def page(request: Request) -> Response:
        address = request.scope["path"]
        if address not in contents:
            contents[address] = pages[address](made)
        return contents[address].reply(request.headers)

    both = ["GET", "HEAD"]
    app.add_api_route(STATIC + "{name:path}", asset, methods=both, include_in_schema=False)
    for address in pages:
        app.add_api_route(address, page, methods=both, include_in_schema=False)


def media_type(path: Path) -> str:
    return TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def takes_gzip(accepted: str) -> bool:
    """As `Accept-Encoding` says (RFC 9110, 12.5.3): named, or by `*`, and not with a weight of 0."""
    weights = {}
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        weights[coding.strip()] = weight.replace(" ", "").removeprefix("q=") or "1"
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", "0")))
    try:
        return float(weight) > 0
    except ValueError:
        return False


def _known(asked: str, tag: str) -> bool:
    """Whether the client has just this content in this encoding (`If-None-Match`, weak comparison)."""
    given = {one.strip().removeprefix("W/") for one in asked.split(",")}
    return "*" in given or tag in given
