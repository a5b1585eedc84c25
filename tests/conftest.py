"""What all tests share: no skips where REQUIRE=1, the base model, a finished nano run, free ports."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, checkout, repro
from tradewind.caching.node import RedisNode
from tradewind.errors import UserError

os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timing"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where REQUIRE=1 (CI), a skip is a failure that names what is missing."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr[2] if report.longrepr else item.nodeid}"
    return report


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """artifacts/base of profile `cpu`, made from the pinned wheel under .tradewind/ where the pipeline has not run."""
    from tradewind.data import fetch
    from tradewind.model.base import import_gguf

    made = ROOT / "artifacts" / "base"
    if (made / "model.safetensors").exists():
        return made
    made = ROOT / ".tradewind" / "tests" / "base"
    if not (made / "model.safetensors").exists():
        try:
            fetch(ROOT / "data", ROOT / "conf" / "data")
        except UserError as error:
            pytest.skip(f"needs the base weights (`make data`): {error}")
        import_gguf(ROOT / "data" / "base" / "SmolLM2-135M-Instruct.Q4_1.gguf", made)
    return made


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def redis_node() -> Iterator[RedisNode]:
    """A Redis of its own, lost with the test."""
    pytest.importorskip("redis", reason="the package redis is missing (make installs requirements.lock)")
    try:
        node = RedisNode()
    except UserError as error:
        pytest.skip(str(error))
    node.start()
    yield node
    node.resume()
    node.stop()


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory) -> Path:
    """The working copy of a finished `nano` run in a repository of its own."""
    repository = checkout(tmp_path_factory.mktemp("repository"))
    repro(repository, "nano")
    return repository / ".tradewind" / "runs" / "nano"
