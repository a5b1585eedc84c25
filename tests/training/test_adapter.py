"""The command that trains an adapter: a folder that fits its model, and bad data refused by line."""

import json
from pathlib import Path

import pytest

from tests.compression.tiny import CONFIG, tiny_flat, tiny_tokenizer
from tradewind.errors import UserError
from tradewind.model.adapters import read_adapter
from tradewind.model.base import save_checkpoint
from tradewind.model.weights import weights_digest
from tradewind.training.adapter import conversations, main

CHAT = [{"role": "user", "content": "the array"}, {"role": "assistant", "content": "is returned as a copy"}]


def test_what_it_trains_can_be_read_and_names_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "base", CONFIG, tiny_flat(), tiny_tokenizer())
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps({'messages': CHAT})}\n" * 8)
    command = [
        "--model",
        str(tmp_path / "base"),
        "--data",
        str(tmp_path / "chats.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    main([*command, "--tokens", "400", "--length", "128", "--rank", "2", "--modules", "q", "v", "--layers", "1"])
    said = json.loads(capsys.readouterr().out.partition(": ")[2])
    adapter = read_adapter(tmp_path / "out", CONFIG, [weights_digest(tiny_flat())])
    assert (adapter.rank, set(adapter.pairs)) == (2, {(1, "q"), (1, "v")})
    assert any(pair[1].any() for pair in adapter.pairs.values())
    assert said["loss_last"] < said["loss_first"]
    with pytest.raises(UserError, match="is there already"):
        main(command)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no conversation"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n', "no answer to learn"),
        ('{"messages": []}\n', "line 1"),
        ('{"messages": [{"role": "user"}]}\n', "line 1"),
    ],
)
def test_data_that_is_none(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "chats.jsonl").write_text(lines)
    with pytest.raises(UserError, match=said):
        conversations(tmp_path / "chats.jsonl")
