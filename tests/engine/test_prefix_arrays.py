"""Every engine goes on from keys and values that were in a file as from those in its memory, to the last bit."""

from pathlib import Path

import numpy as np

from tradewind.engine.contract import Engine
from tradewind.engine.prefix_disk import PrefixDisk

SALT = ("", None, None)


def test_an_engine_goes_on_from_a_file(engine: Engine, tmp_path: Path) -> None:
    tokens, more = ([token % engine.vocab_size for token in part] for part in (range(7, 47), range(3, 9)))
    disk = PrefixDisk(tmp_path, 1 << 24, engine)
    own = engine.prefill(tokens)
    disk.keep(SALT, tuple(tokens), own, wait=True)
    disk.close()
    later = PrefixDisk(tmp_path, 1 << 24, engine)
    entry = later.find(SALT, (*tokens, 1), 0)
    later.close()
    assert entry is not None
    held, prefix = entry
    assert (held, prefix.length, prefix.adapter) == (tuple(tokens), len(tokens), None)
    for length in (len(tokens), 21):
        ends = [engine.prefill(more, one.cut(length)) for one in (own, prefix)]
        assert ends[0].logits is not None and ends[1].logits is not None
        np.testing.assert_array_equal(ends[0].logits, ends[1].logits)
        for slot, end in enumerate(ends):
            engine.insert(end, slot)
        lines = engine.step({0: [5], 1: [5]})
        np.testing.assert_array_equal(lines[0], lines[1])
        for slot in range(2):
            engine.release(slot)
