import json
import re
import shutil

import pytest
from starlette.testclient import TestClient

from tests.compression.tiny import tiny_variant
from tradewind.edge.packages import LOCK, PAGE, node_packages
from tradewind.edge.serve import create_app
from tradewind.edge.site import LIBRARIES, Site, build_site
from tradewind.errors import UserError

QUESTIONS = [
    {"kind": "raises", "passage": "p" * 900, "question": "too long", "answer": "a"},
    {"kind": "raises", "passage": "p", "question": "q", "answer": "a", "symbols": []},
    {"kind": "how", "passage": "p2", "question": "q2", "answer": "a2"},
    {"kind": "other", "passage": "p3", "question": "q3", "answer": "a3"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("site")
    tiny_variant(made / "v", "int4")
    (made / "test.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    for file in LIBRARIES.values():
        (made / "node_modules" / file).parent.mkdir(parents=True, exist_ok=True)
        (made / "node_modules" / file).write_text("export {};")
    return made


def site(folder, max_len: int = 100) -> Site:
    return build_site(folder / "v", folder / "test.jsonl", folder / "node_modules", max_len)


def client(made: Site) -> TestClient:
    return TestClient(create_app(made), base_url="http://localhost")


def test_every_answer_isolates_the_page_and_names_no_other_host(folder):
    made = site(folder)
    asked = client(made)
    for address in (*made.contents, "/nowhere"):
        headers = asked.get(address).headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert (
            "http" not in headers["Content-Security-Policy"]
            and "default-src 'none'" in headers["Content-Security-Policy"]
        )


def test_what_may_change_is_asked_about_and_the_rest_kept_for_ever(folder):
    made = site(folder)
    kept = {address: "immutable" in client(made).get(address).headers["Cache-Control"] for address in made.contents}
    assert {address for address, value in kept.items() if not value} == {"/", "/sw.js"}
    assert site(folder).root == made.root != site(folder, max_len=99).root


def test_the_page_and_its_modules_name_only_files_that_are_there(folder):
    made = site(folder)
    asked = client(made)
    named = re.findall(r'(?:href|src)="([^"]+)"', asked.get("/").text)
    assert len(named) == 4 and all(asked.get(address).status_code == 200 for address in named)
    for path in PAGE.glob("*.js"):
        named = re.findall(r'(?:from|new URL\() ?"(?:\./)?([^"]+\.m?js)"', path.read_text())
        for name in named + [f"decoder_{runtime}.js" for runtime in ("wasm", "webgpu")]:
            assert made.root + name in made.contents, f"{path.name} names {name}"
    shell = re.findall(r'"([\w.]+)"', re.search(r"SHELL = .*", asked.get("/sw.js").text)[0])
    assert shell and all(made.root + name in made.contents for name in shell)


def test_the_model_tells_the_page_its_prompt_and_examples(folder):
    made = site(folder)
    facts = client(made).get(made.root + "model.json").json()
    assert [example["question"] for example in facts["examples"]] == ["q", "q2"]
    assert facts["between"] == "\n\n" and facts["eos"] == [2, 0] and facts["name"] == "base-int4"
    sizes = {file["path"]: file["bytes"] for file in facts["data"]}
    assert sizes == {"model.onnx.data": (folder / "v" / "model.onnx.data").stat().st_size}
    names = ("model.onnx.data", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for runtime in facts["runtimes"].values():
        addresses = [runtime["graph"], *(f"model/{name}" for name in names)]
        assert runtime["bytes"] == sum(len(client(made).get(made.root + address).content) for address in addresses)
    assert sorted(facts["runtimes"]) == ["wasm", "webgpu"]


def test_another_host_name_is_refused(folder):
    assert TestClient(create_app(site(folder)), base_url="http://evil.example").get("/").status_code == 400


def test_a_context_that_the_variant_has_not_is_an_error(folder):
    with pytest.raises(UserError, match=r"--max-len must be in 2\.\.128 for base-int4, not 129"):
        site(folder, max_len=129)


def test_the_lock_pins_every_package_by_content_and_names_no_host():
    lock = json.loads((PAGE / LOCK).read_text())
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert packages and all(facts["integrity"].startswith("sha512-") for facts in packages.values())
    assert "http" not in (PAGE / LOCK).read_text() and "resolved" not in (PAGE / LOCK).read_text()
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"]
    assert {packages[f"node_modules/{name}"]["version"] for name in wanted} == set(wanted.values())


def test_without_npm_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm not found"):
        node_packages(tmp_path)
    assert not list(tmp_path.rglob("node_modules"))


def test_files_that_change_under_the_server_are_not_served(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "site")
    made = site(folder)
    asked, address = client(made), made.root + "model/model.onnx.data"
    assert asked.get(address).status_code == 200
    (folder / "v" / "model.onnx.data").write_bytes(b"other")
    assert asked.get(address).status_code == 503 and "start the server again" in asked.get(address).text
    (folder / "v" / "model.onnx.data").unlink()
    assert asked.get(address).status_code == 503
