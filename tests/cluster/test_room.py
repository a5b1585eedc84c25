"""What a machine cannot run is said before anything is deployed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.test_plan import Json, engine, written
from tradewind.cluster import room
from tradewind.cluster.plan import Plan
from tradewind.errors import UserError

SIZE = {"num_layers": 2, "num_kv_heads": 1, "head_dim": 64}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cores and 8 GiB, without keys."""
    monkeypatch.delenv("TRADEWIND_KEYS_FILE", raising=False)
    monkeypatch.delenv("TRADEWIND_API_KEYS", raising=False)
    monkeypatch.setattr(room.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 8 << 30}))


def real(folder: Path, config: Json) -> None:
    """The engine's application with a variant of 4,096 positions, 1 KiB a token."""
    (folder / "small").mkdir()
    (folder / "small" / "manifest.json").write_text(json.dumps({"max_position": 4096, "config": SIZE}))
    engine(config)["args"] |= {"engine": "ort", "model": "small", "variants": str(folder)}


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    room.check(Plan.read(written(tmp_path, lambda config: real(tmp_path, config))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["http_options"].update(host="0.0.0.0"), "host 0.0.0.0 is open to others"),
        (lambda c: c["http_options"].update(host="nowhere.invalid"), "host nowhere.invalid"),
        (
            lambda c: engine(c)["deployments"][0].update(ray_actor_options={"num_cpus": 40}),
            r"ask for 80 CPUs together, where Ray counts 4 \(of 2 cores\)",
        ),
        (lambda c: engine(c)["args"].update(threads=1000), r"args\.threads: 1000 are too many for 2 cores"),
        (lambda c: engine(c)["args"].update(max_len=999_999), r"max_len: 999999 is beyond the 4096 positions of small"),
        (lambda c: engine(c)["args"].update(slots=100_000), r"slots: 100000 of 2048 tokens take 195 GiB"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: Callable[[Json], object], words: str) -> None:
    plan = Plan.read(written(tmp_path, lambda config: (real(tmp_path, config), change(config))))
    with pytest.raises(UserError, match=words):
        room.check(plan)
