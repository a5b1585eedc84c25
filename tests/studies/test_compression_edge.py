"""The study's rows of constrained devices, on a tiny variant."""

from dataclasses import asdict

from studies.compression import edge
from studies.compression.places import plan
from tests.compression.tiny import tiny_variant
from tradewind.edge.answer import answer
from tradewind.edge.capped import CapExceeded
from tradewind.report.compression import edge as edge_table

QUESTION = {"question": "q", "passage": "the array"}


def in_this_process(ask, mebibytes, show):
    if mebibytes < 256:
        raise CapExceeded("too much")
    return asdict(answer(ask, lambda event: None)) | {"cap": "none"}


def test_rates_are_of_as_many_tokens_as_planned_and_the_table_says_so(tmp_path, monkeypatch):
    assert plan()["edge"]["tokens"] >= 32
    monkeypatch.setattr(edge, "VARIANTS", tmp_path)
    monkeypatch.setattr(edge, "answer_capped", in_this_process)
    tiny_variant(tmp_path / "base-int4", "int4")
    settings = {"tokens": 32, "memory_mib": 256, "repeats": 1}
    row = edge.capped("base-int4", QUESTION, settings)
    assert row["timed_tokens"] == 32 and row["decode_tokens_per_s"] > 0
    small = edge.capped("base-int4", QUESTION, settings | {"memory_mib": 1})
    assert small["note"] == "too much" and "timed_tokens" not in small
    table = edge_table({"edge": {"params": settings, "rows": [row, small], "device": "d"}})
    assert "| tokens/s | of tokens |" in table and " | 32 | " in table
