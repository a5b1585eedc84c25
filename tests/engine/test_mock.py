"""The mock engine against arithmetic done by hand."""

import time

from tradewind.engine.mock import ALPHABET, MockEngine, best_next


def test_next_token_by_hand() -> None:
    # 1 * 104 + 2 * 105 = 314; 314 mod 32 = 26, the first of the spaces.
    assert best_next(b"hi") == ALPHABET[26] == ord(" ")
    logits = MockEngine().prefill(list(b"hi")).logits
    assert logits is not None
    assert logits[ord(" ")] == 0
    assert logits[ord(" ") + 3] == -1.5


def test_order_and_place_count() -> None:
    assert best_next([1, 2]) != best_next([2, 1])
    assert best_next([0, 1]) != best_next([1])


def test_an_adapter_answers_otherwise() -> None:
    engine = MockEngine(adapters=("terse",))
    plain, terse = engine.prefill([7]), engine.prefill([7], adapter="terse")
    assert plain.logits is not None
    assert terse.logits is not None
    assert plain.logits.argmax() != terse.logits.argmax()
    engine.insert(terse, 0)
    assert engine.step({0: [5]})[0][-1].argmax() == best_next([7, 5], offset=1)


def test_delays_are_kept() -> None:
    engine = MockEngine(step_delay=0.02, prefill_delay=0.005)
    start = time.perf_counter()
    engine.insert(engine.prefill([1, 2, 3, 4]), 0)
    engine.step({0: [1]})
    assert time.perf_counter() - start >= 0.04
