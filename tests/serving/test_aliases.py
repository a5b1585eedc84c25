"""Names for variants: for one, whatever it is, and for several that say so."""

from collections.abc import Iterator

import pytest

from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import Request
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.errors import UserError
from tradewind.serving.catalog import Alias, Catalog, Served
from tradewind.serving.errors import ApiError
from tradewind.serving.settings import ServeSettings


@pytest.fixture
def served() -> Iterator[list[Served]]:
    """Of unlike weights and lengths."""
    engines = {"a": MockEngine(1, 256, step_delay=0.01), "b": MockEngine(1, 128)}
    engines["b"].weights_digest = "0" * 64
    made = [Served(name, Scheduler(one, ByteTokenizer()), ByteTokenizer()) for name, one in engines.items()]
    yield made
    for one in made:
        one.scheduler.close()


def test_an_alias_of_one(served: list[Served]) -> None:
    catalog = Catalog(served, ServeSettings(), {"assistant": Alias(("b",))})
    assert catalog.variant("assistant") == "b"
    assert catalog.names == ["a", "b", "assistant"]
    model = catalog.model("assistant")
    assert (model["id"], model["max_model_len"], model["models"], model["exact"]) == ("assistant", 128, ["b"], True)
    with pytest.raises(ApiError, match="'a', 'b', 'assistant'"):
        catalog.variant("other")


def test_of_several_the_one_with_the_fewest_requests_answers(served: list[Served]) -> None:
    catalog = Catalog(served, ServeSettings(), {"any": Alias(("a", "b"), exact=False)})
    assert catalog.variant("any") == "a"
    (ticket,) = served[0].scheduler.submit_all([(Request((1, 2), 200, ignore_eos=True), lambda event: None)])
    assert catalog.variant("any") == "b"
    ticket.cancel()
    assert catalog.model("any")["max_model_len"] == 128


@pytest.mark.parametrize(
    ("name", "alias", "words"),
    [
        ("any", Alias(("a", "b")), "must say exact: false"),
        ("any", Alias(("a", "c")), "'c' is not served"),
        ("any", Alias(()), "names none"),
        ("a", Alias(("b",)), "is a variant's name"),
    ],
)
def test_what_an_alias_cannot_be(served: list[Served], name: str, alias: Alias, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Catalog(served, ServeSettings(), {name: alias})
