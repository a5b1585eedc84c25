"""Serve the page on loopback, with the headers that let it use threads and keep it to itself.

Cross-origin isolation (COOP, COEP) is what a browser asks for before it shares memory between threads. The
Content-Security-Policy names no other host, so none can be contacted, whatever the page's code says.
Not covered: other addresses than loopback, TLS, compression (it would cost the time that it saves on loopback).
"""

from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from tradewind.edge.packages import node_packages
from tradewind.edge.site import Site, build_site, checked, media_type
from tradewind.serving.server import bind

HOST = "127.0.0.1"
HOME = Path(".tradewind")
FOR_EVER, ASK_FIRST = "public, max-age=31536000, immutable", "no-cache"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def serve(variant: Path, questions: Path, port: int, max_len: int) -> None:
    """Until it is told to end. Raises UserError for a taken port, a bad variant, or missing libraries."""
    listener = bind(HOST, port)
    checked(variant, max_len)  # before libraries are fetched
    site = build_site(variant, questions, node_packages(HOME), max_len)
    listener.listen()  # who reads the address may come at once
    print(f"{variant.name} in the browser: http://{HOST}:{listener.getsockname()[1]}/", flush=True)
    server = uvicorn.Server(uvicorn.Config(create_app(site), log_level="warning", server_header=False))
    server.run(sockets=[listener])


def create_app(site: Site) -> Starlette:
    """What lies in files is served as long as they are those of the start: the page's address stands for their content."""
    stamps = {address: _stamp(content) for address, content in site.contents.items() if isinstance(content, Path)}

    def reply(request: Request) -> Response:
        address = request.url.path
        content = site.contents.get(address)
        if content is None:
            return PlainTextResponse("Not Found", 404, headers=HEADERS)
        headers = {**HEADERS, "Cache-Control": FOR_EVER if address.startswith(site.root) else ASK_FIRST}
        if isinstance(content, bytes):
            return Response(content, headers=headers, media_type=media_type(address))
        if _stamp(content) != stamps[address]:
            return PlainTextResponse("The variant's files have changed: start the server again", 503, headers=HEADERS)
        return FileResponse(content, headers=headers, media_type=media_type(address))

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Route("/{path:path}", reply)], middleware=[hosts])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Tells whether a file is still the same; None where there is none."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
