"""One cluster of two replicas of the mock engine, for all tests that need Ray."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest

from tests.serving.conftest import WAIT
from tradewind.load.server import started


@dataclass
class Running:
    """url without /v1. home: TRADEWIND_HOME, by which other programs find it."""

    url: str
    home: Path

    def client(self) -> openai.OpenAI:
        """Whose calls reach the replicas: no answer is a cached one."""
        fresh = {"Cache-Control": "no-store"}
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=WAIT, default_headers=fresh
        )

    @property
    def replicas(self) -> list[psutil.Process]:
        """Of engines, by age."""
        children = psutil.Process().children(recursive=True)
        found = [one for one in children if "ServeReplica:engine" in " ".join(one.cmdline() or [])]
        return sorted(found, key=lambda one: one.create_time())


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Tests leave two replicas of `mock`, that answer."""
    home = tmp_path_factory.mktemp("cluster")
    kept = os.environ.get("TRADEWIND_HOME")
    os.environ["TRADEWIND_HOME"] = str(home)
    try:
        with started(["up", "--engine", "mock", "--replicas", "2", "--slots", "4"], "tradewind.cluster") as url:
            yield Running(url, home)
    finally:
        os.environ.pop("TRADEWIND_HOME")
        if kept is not None:
            os.environ["TRADEWIND_HOME"] = kept
