"""Engines for the tests of this folder: a factory per engine name, small and made once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tradewind.engine.contract import Engine
from tradewind.engine.mock import MockEngine

SLOTS, MAX_LEN = 4, 64
Factory = Callable[[Path], Engine]


def mock(_: Path) -> Engine:
    return MockEngine(slots=SLOTS, max_len=MAX_LEN, adapters=("terse",))


FACTORIES: dict[str, Factory] = {"mock": mock}


@pytest.fixture(scope="session", params=FACTORIES)
def shared_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = FACTORIES[request.param](tmp_path_factory.getbasetemp())
    yield made
    made.close()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """An engine with every slot free, which the test may leave as it likes."""
    yield shared_engine
    for slot in range(shared_engine.slots):
        if shared_engine.length(slot):
            shared_engine.release(slot)
