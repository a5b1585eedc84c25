"""The comparison of distillation strategies, whole, on a tiny teacher and an initial student with fewer layers."""

import numpy as np
import pytest

from studies.compression import strategies
from tests.compression.tiny import CONFIG, tiny_flat, tiny_tokenizer
from tradewind.compression.prune import PruneConfig, prune
from tradewind.files import read_json, write_json, write_jsonl
from tradewind.model.base import save_checkpoint
from tradewind.report.compression_models import strategies as section
from tradewind.training.data import draw, pack

SETTINGS = {
    "tokens": 1500, "validation_tokens": 800, "length": 64, "k": 16, "streams": [1], "relation_heads": 2,
    "training": {"tokens": 3000, "rows": 4, "optimizer": {"learning_rate": 1e-3}},
    "strategies": {
        "kl": {"losses": {"logits": 1.0}},
        "kl_and_streams": {"losses": {"logits": 1.0, "streams": 0.5, "relations": 0.5}},
        "on_policy_kl": {"losses": {"logits": 1.0}, "on_policy": {"share": 0.5, "rounds": 2, "answer_tokens": 8}},
    },
}  # fmt: skip


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat, tokenizer, random = tiny_flat(), tiny_tokenizer(), np.random.default_rng(0)
    words = ["the", "array", "is", "returned", "as", "a", "copy", "of", "the", "axis"]
    for name in ("train", "validation"):
        said = [" ".join(random.choice(words, 5)) for _ in range(80)]
        chats = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t}]} for t in said]
        write_jsonl(f"artifacts/corpus/{name}.jsonl", chats)
    save_checkpoint("artifacts/teacher", CONFIG, flat, tokenizer)
    packed = pack(draw([chat["messages"] for chat in chats], tokenizer, 400, 64, 0), 64)
    cut = prune(CONFIG, flat, [packed.take([0])], PruneConfig(schedule=({"mlp_size": 32},), ridge=0.0))
    save_checkpoint("artifacts/student_init", cut.config, cut.flat, tokenizer)
    write_json("artifacts/student_init/vocabulary.json", {"teacher_ids": list(range(CONFIG.vocab_size))})
    monkeypatch.setattr(strategies, "plan", lambda: {"strategies": SETTINGS})
    monkeypatch.setattr(strategies, "stage_params", lambda _: {"seed": 0})
    strategies.main()
    return read_json("reports/studies/compression/strategies.json")


def test_each_strategy_is_judged_beside_the_untrained_student_and_the_basis(report):
    rows = {row["strategy"]: row for row in report["rows"]}
    assert set(rows) == {"none", *SETTINGS["strategies"]}
    for name in SETTINGS["strategies"]:
        assert rows[name]["kl_to_teacher"] < rows["none"]["kl_to_teacher"]
        low, high = rows[name]["kl_to_teacher_ci"]
        assert low < rows[name]["kl_to_teacher"] < high
    assert rows["kl"]["kl_beyond_basis_ci"] == rows["none"]["kl_beyond_untrained_ci"] == [0.0, 0.0]
    assert rows["kl"]["kl_beyond_untrained"] == pytest.approx(-rows["none"]["kl_beyond_basis"])
    beyond = rows["none"]["kl_to_teacher"] - rows["kl"]["kl_to_teacher"]
    assert rows["none"]["kl_beyond_basis"] == pytest.approx(beyond)
    lines = [line for line in section({"strategies": report}).splitlines() if line.startswith("| ")][1:]
    kls = [float(line.split("|")[2].split("[")[0]) for line in lines]
    assert kls == sorted(kls)
    assert lines[-1].startswith("| untrained")
