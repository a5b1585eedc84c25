"""Pages and assets as a browser and a CDN get them: every header, what a page may name, who may see it."""

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.serving.conftest import Served, serving
from tests.serving.test_robustness import error_of
from tradewind.engine.mock import MockEngine
from tradewind.serving import static
from tradewind.serving.keys import ApiKey, Keyring, Limits, hash_of
from tradewind.serving.settings import ServeSettings
from tradewind.serving.static import FOLDER, FOR_EVER, Content, Site, takes_gzip

PAGES = ("/", "/docs")
ASSETS = tuple(Site().assets)
HASHED = re.compile(r"/static/[\w-]+\.[0-9a-f]{16}\.\w+")
KEY = "a-key"
RING = Keyring((ApiKey("one", hash_of(KEY), limits=Limits(requests_per_minute=1)),))


class Links(HTMLParser):
    """What a page loads, what it leads to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if anchor := given.get("id"):
            assert anchor not in self.anchors
            self.anchors.add(anchor)
        for name in ("href", "src"):
            if (target := given.get(name)) is not None:
                (self.leads if tag == "a" else self.loads).append(target)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving(MockEngine(), ServeSettings(port=8123)) as served, served.http() as client:
        yield client


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(MockEngine(), ServeSettings(), RING) as served:
        yield served


def raw(http: httpx.Client, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """A reply and its body as it was sent."""
    with http.stream("GET", path, headers={"Accept-Encoding": "identity", **headers}) as reply:
        return reply, b"".join(reply.iter_raw())


def test_the_site_has_what_the_pages_need() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".html", ".css", ".svg"}
    assert all(map(HASHED.fullmatch, ASSETS))


@pytest.mark.parametrize("path", ASSETS)
def test_an_asset_may_be_kept_for_ever(http: httpx.Client, path: str) -> None:
    reply, body = raw(http, path)
    name, _, suffix = path.removeprefix("/static/").split(".")
    assert body == (FOLDER / f"{name}.{suffix}").read_bytes()
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert reply.headers["content-type"] == {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}[suffix]
    assert reply.headers["content-length"] == str(len(body))
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r'"[0-9a-f]{32}"', reply.headers["etag"])
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_asked_about_each_time(http: httpx.Client, path: str) -> None:
    reply, body = raw(http, path)
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert reply.headers["vary"] == "Accept-Encoding"
    assert body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("path", [*PAGES, *ASSETS])
def test_compressed_and_plain_are_two_representations(http: httpx.Client, path: str) -> None:
    plain, body = raw(http, path)
    zipped, smaller = raw(http, path, **{"Accept-Encoding": "br, gzip"})
    assert zipped.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(smaller) == body
    assert int(zipped.headers["content-length"]) == len(smaller) < len(body)
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert {name: zipped.headers[name] for name in ("cache-control", "content-type")} == {
        name: plain.headers[name] for name in ("cache-control", "content-type")
    }


@pytest.mark.parametrize("path", [*PAGES, *ASSETS])
def test_what_the_client_has_is_not_sent_again(http: httpx.Client, path: str) -> None:
    for encoding in ("identity", "gzip"):
        tag = raw(http, path, **{"Accept-Encoding": encoding})[0].headers["etag"]
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            reply, body = raw(http, path, **{"Accept-Encoding": encoding, "If-None-Match": given})
            assert (reply.status_code, body) == (304, b"")
            assert reply.headers["etag"] == tag
            assert reply.headers["cache-control"]
            assert reply.headers["vary"] == "Accept-Encoding"
            assert "content-type" not in reply.headers
    assert raw(http, path, **{"If-None-Match": '"other"'})[0].status_code == 200


def test_who_has_it_compressed_and_takes_it_plain_gets_it(http: httpx.Client) -> None:
    """A cache would store the one under the other's name."""
    tag = raw(http, "/", **{"Accept-Encoding": "gzip"})[0].headers["etag"]
    reply, body = raw(http, "/", **{"Accept-Encoding": "identity", "If-None-Match": tag})
    assert (reply.status_code, len(body) > 0) == (200, True)


@pytest.mark.parametrize("path", [*PAGES, *ASSETS])
def test_head_says_what_get_would(http: httpx.Client, path: str) -> None:
    got, _ = raw(http, path)
    head = http.head(path, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    own = {"x-request-id", "date"}
    assert {name: value for name, value in head.headers.items() if name not in own} == {
        name: value for name, value in got.headers.items() if name not in own
    }


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_only_hashed_assets_that_are_there(http: httpx.Client, path: str) -> None:
    page = Links(http.get(path).text)
    assert page.loads
    assert set(page.loads) <= set(ASSETS)
    assert not page.tags & {"script", "style", "iframe", "object", "embed", "form"}
    for target in page.leads:
        if target.startswith("#"):
            assert target[1:] in page.anchors
        else:
            assert re.match(r"/(?!/)", target), target  # this host
            assert http.get(target).status_code == 200, target


@pytest.mark.parametrize("path", ASSETS)
def test_assets_name_no_other_host(http: httpx.Client, path: str) -> None:
    text = http.get(path).text.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing loads
    assert "//" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_a_page_may_load_nothing_that_the_policy_forbids(http: httpx.Client) -> None:
    policy = dict(part.strip().split(" ", 1) for part in http.get("/").headers["content-security-policy"].split(";"))
    assert set(policy.values()) == {"'none'", "'self'"}


@pytest.mark.parametrize(
    "path",
    [
        "/static/", "/static", "/static/nosuch.0000000000000000.css", "/static/tradewind.css",
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py",
        "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/index.html", "/static/%00", "/docs/", "/docs/x",
    ],
)  # fmt: skip
def test_nothing_else_is_there(keyed: Served, path: str) -> None:
    with keyed.http() as http:
        request = httpx.Request("GET", keyed.url + path)
        request.url = request.url.copy_with(raw_path=path.encode())  # as it stands
        reply = http.send(request)
    assert reply.status_code in (401, 404)  # with `..` taken literally by nobody: another route's, which wants a key
    assert error_of(reply)[1] in ("unknown_url", "invalid_api_key")


@pytest.mark.parametrize("path", [*PAGES, ASSETS[0]])
def test_nothing_can_be_written(http: httpx.Client, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert error_of(http.request(method, path))[:2] == (405, "method_not_allowed")


def test_pages_need_no_key_and_no_limit_counts_them(keyed: Served) -> None:
    with keyed.http() as http:
        for _ in range(3):
            for path in (*PAGES, *ASSETS):
                reply = http.get(path)
                assert reply.status_code == 200
                assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
        assert http.get("/openapi.json").status_code == http.get("/other").status_code == 401


def test_the_landing_page_shows_models_where_everybody_may_list_them(http: httpx.Client, keyed: Served) -> None:
    text = http.get("/").text
    assert "<code>mock</code>" in text
    assert "127.0.0.1:8123/v1/chat/completions" in text
    assert "Bearer" not in text
    with keyed.http() as other:
        guarded = other.get("/").text
    assert "mock" not in guarded
    assert "Bearer $KEY" in guarded
    assert "with a key" in guarded


def test_the_reference_names_every_operation_and_field(http: httpx.Client) -> None:
    text = http.get("/docs").text
    document = http.get("/openapi.json").json()
    assert not set(document["paths"]) & {*PAGES, "/static/{name}"}
    for path, methods in document["paths"].items():
        for method in methods:
            assert f'<b class="{method}">{method.upper()}</b> <code>{path}</code>' in text
    for name, schema in document["components"]["schemas"].items():
        assert f'<article id="{name}">' in text
        for field in schema.get("properties", {}):
            assert f"<td><code>{field}</code>" in text


def test_values_are_escaped() -> None:
    page = Site().page(
        "index.html", models=[{"id": "<b>", "max_model_len": 1}], keyed=False, needs_key="", port="<script>"
    )
    assert b"&lt;b&gt;" in page.body
    assert b"<b>" not in page.body
    assert b"<script>" not in page.body


def test_a_page_cannot_name_an_asset_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("{{ asset('nosuch.css') }}")
    with pytest.raises(KeyError):
        Site(tmp_path).page("page.html")


def test_other_content_has_another_name(tmp_path: Path) -> None:
    names = []
    for text in ("one", "two", "one"):
        (tmp_path / "a.js").write_text(text)
        names.append(Site(tmp_path).address("a.js"))
    assert names[0] == names[2] != names[1]
    assert Site(tmp_path).assets[names[0]].media_type == "text/javascript"


def test_what_does_not_shrink_is_sent_as_it_is() -> None:
    content = Content(b"x", "text/plain", FOR_EVER)
    reply = content.reply(httpx_headers("gzip"))
    assert (reply.body, "vary" in reply.headers, "content-encoding" in reply.headers) == (b"x", False, False)


def httpx_headers(accepted: str) -> "static.Headers":
    return static.Headers({"accept-encoding": accepted})


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True), ("GZIP;q=0.5", True), ("br, *", True), ("x-gzip", True), ("deflate, gzip ; q=1.0", True),
        ("", False), ("identity", False), ("gzip;q=0", False), ("gzip;q=0.000, *", False), ("*;q=0", False),
        ("gzip;q=many", False), ("gzipped", False),
    ],
)  # fmt: skip
def test_what_a_client_takes(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) == takes


def test_a_page_is_made_once(tmp_path: Path) -> None:
    made = []

    def page(site: Site) -> Content:
        made.append(site)
        return Content(b"page", "text/html", "no-cache")

    app = FastAPI()
    static.install(app, {"/p": page}, Site(tmp_path))
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        assert [client.get("/p").text for _ in range(2)] == ["page", "page"]
    assert len(made) == 1
