"""Engines for the tests of this folder: a factory per engine name, small and made once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compression.tiny import tiny_variant
from tradewind.engine.contract import Engine
from tradewind.engine.jax import JaxEngine
from tradewind.engine.mock import MockEngine
from tradewind.engine.ort import OrtEngine

SLOTS, MAX_LEN = 4, 64
Factory = Callable[[Path], Engine]


def mock(_: Path) -> Engine:
    return MockEngine(slots=SLOTS, max_len=MAX_LEN, adapters=("terse",))


def ort(precision: str) -> Factory:
    def make(folder: Path) -> Engine:
        tiny_variant(folder / f"tiny-{precision}", precision)
        return OrtEngine.load(folder / f"tiny-{precision}", slots=SLOTS, max_len=MAX_LEN, threads=1)

    return make


def jax(precision: str, integers: bool = False) -> Factory:
    def make(folder: Path) -> Engine:
        variant = folder / f"tiny-jax-{precision}-{integers}"
        tiny_variant(variant, precision)
        return JaxEngine.load(variant, slots=SLOTS, max_len=MAX_LEN, integers=integers)

    return make


FACTORIES: dict[str, Factory] = {
    "mock": mock,
    "ort-fp32": ort("fp32"),
    "ort-int8": ort("int8"),
    "ort-int4": ort("int4"),
    "jax-fp32": jax("fp32"),
    "jax-int8": jax("int8"),  # and so with an int8 cache
    "jax-int4-integers": jax("int4", integers=True),
}


@pytest.fixture(scope="session", params=FACTORIES)
def shared_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = FACTORIES[request.param](tmp_path_factory.getbasetemp())
    yield made
    made.close()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """An engine with every slot free, which the test may leave as it likes."""
    yield from freed(shared_engine)


def freed(engine: Engine) -> Iterator[Engine]:
    """The engine; whatever then runs in its slots ends."""
    yield engine
    for slot in range(engine.slots):
        if engine.length(slot):
            engine.release(slot)
