"""Prefixes on the disk: a warm restart answers as a cold start does, and nothing but its own intact files is read."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.engine.scheduling import WAIT, Inbox, ask, by_hand, send
from tradewind.engine import prefix_disk
from tradewind.engine.contract import Engine
from tradewind.engine.mock import MockEngine
from tradewind.engine.prefix_cache import LEAST, Tokens
from tradewind.engine.prefix_disk import WAITING, Job, PrefixDisk, Stored, open_disk
from tradewind.engine.requests import Done
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer
from tradewind.errors import UserError

MIB = 1 << 20
HELLO = "the documentation of one function, long enough to be kept. "


def mock(**more: int) -> MockEngine:
    return MockEngine(**{"slots": 1, "max_len": 512, **more})


@contextmanager
def opened(folder: Path, budget: int = MIB, engine: Engine | None = None) -> Iterator[PrefixDisk]:
    disk = PrefixDisk(folder, budget, engine or mock())
    yield disk
    disk.close()


def keep(disk: PrefixDisk, tokens: Tokens, salt: tuple[str | None, ...] = ("", None, None)) -> None:
    disk.keep(salt, tokens, disk.engine.prefill(tokens), wait=True)
    disk.flush()


def found(disk: PrefixDisk, prompt: Tokens, salt: tuple[str | None, ...] = ("", None, None), known: int = 0) -> int:
    """Tokens that an entry shares with the prompt; that they are what the engine holds for them is checked here."""
    entry = disk.find(salt, prompt, known)
    if entry is None:
        return 0
    tokens, prefix = entry
    assert prefix.length == len(tokens)
    np.testing.assert_array_equal(prefix.kv, disk.engine.prefill(tokens).kv)  # type: ignore[attr-defined]
    shared = min(len(tokens), len(prompt))
    return next((place for place in range(shared) if tokens[place] != prompt[place]), shared)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)


def scheduler(folder: Path, engine: MockEngine | None = None, **more: int) -> Scheduler:
    settings = {"prefix_cache_bytes": MIB, "prefix_cache_disk_bytes": MIB, **more}
    return Scheduler(engine or mock(), ByteTokenizer(), SchedulerSettings(prefix_cache_dir=str(folder), **settings))  # type: ignore[arg-type]


def answer(run: Scheduler, prompt: str, **more: object) -> tuple[str, int]:
    """Text, and how many tokens of the prompt were not run."""
    inbox: Inbox = send(run, ask(prompt, **more))[1]
    end = inbox.end()
    assert isinstance(end, Done)
    return inbox.text(), end.cached_tokens


def test_a_later_process_finds_what_was_kept(tmp_path: Path) -> None:
    tokens = tuple(range(40))
    with opened(tmp_path) as disk:
        keep(disk, tokens)
        assert (len(disk), disk.written) == (1, 1)
    with opened(tmp_path) as disk:
        assert found(disk, (*tokens, 9)) == 40
        assert found(disk, (*tokens[:20], 99)) == 20
        assert found(disk, (*tokens, 9), known=40 - LEAST + 1) == 0
        assert found(disk, (*tokens, 9), ("other", None, None)) == 0
        assert (disk.queries, disk.hits) == (41 + 21 + 41 - 25 + 41, 60)


def test_a_warm_restart_answers_as_a_cold_start(tmp_path: Path) -> None:
    prompts = [HELLO + tail for tail in ("what does it give back, and when?", "why is it there at all, and for whom?")]
    first = scheduler(tmp_path)
    assert [answer(first, prompt)[0] for prompt in prompts] == [by_hand(prompt) for prompt in prompts]
    first.close()
    again = scheduler(tmp_path)
    told = [answer(again, prompt + " more") for prompt in prompts]
    state = again.snapshot()
    again.close()
    assert [text for text, _ in told] == [by_hand(prompt + " more") for prompt in prompts]
    assert [cached for _, cached in told] == [len(prompt) for prompt in prompts]
    assert state.prefix_hits == len(HELLO + "wh")  # in memory, of what the first brought there
    assert state.prefix_disk_hits == sum(map(len, prompts)) - state.prefix_hits
    assert (state.prefix_disk_entries, state.prefix_disk_lost) == (2, 0)
    assert state.prefix_disk_read_s > 0


def test_tenants_salts_and_adapters_stay_apart(tmp_path: Path) -> None:
    engine = {"adapters": ("one",)}
    first = scheduler(tmp_path, MockEngine(1, 512, **engine))  # type: ignore[arg-type]
    answer(first, HELLO, tenant="a", cache_salt="s", adapter="one")
    first.close()
    again = scheduler(tmp_path, MockEngine(1, 512, **engine))  # type: ignore[arg-type]
    for tenant, salt, adapter in (("b", "s", "one"), ("a", None, "one"), ("a", "s", None)):
        assert answer(again, HELLO, tenant=tenant, cache_salt=salt, adapter=adapter)[1] == 0
    assert answer(again, HELLO + "?", tenant="a", cache_salt="s", adapter="one")[1] == len(HELLO)
    again.close()


def test_what_memory_evicts_is_found_on_the_disk(tmp_path: Path) -> None:
    run = scheduler(tmp_path, prefix_cache_bytes=100 * 8)
    prompts = [letter * 90 for letter in "xyz"]
    for prompt in prompts:
        answer(run, prompt)
    assert run._cache.disk is not None
    run._cache.disk.flush()
    assert answer(run, prompts[0] + "!") == (by_hand(prompts[0] + "!"), 90)
    state = run.snapshot()
    assert (state.prefix_evicted, state.prefix_evicted_bytes) == (3, 3 * 90 * 8)
    assert (state.prefix_lookups, state.prefix_hits, state.prefix_disk_hits) == (4, 0, 90)
    assert state.prefix_saved_s > 0
    run.close()


def corrupt(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("where", [-40, 0, 9], ids=["values", "length of the head", "head"])
def test_a_damaged_file_is_dropped_with_one_line(tmp_path: Path, where: int, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(40)))
    corrupt(files(tmp_path)[0], where)
    with opened(tmp_path) as disk:
        assert found(disk, tuple(range(50))) == 0
        assert disk.counts["disk_lost"] == disk.damaged == 1
    assert len([line for line in caplog.records if line.levelno >= logging.WARNING]) == 1
    assert not files(tmp_path)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Whatever is changed, nothing is found, or what the engine would have computed."""
    tokens = tuple(range(LEAST))
    with opened(tmp_path) as disk:
        keep(disk, tokens)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for where in range(0, len(whole), 7):
        path.write_bytes(whole)
        corrupt(path, where)
        with opened(tmp_path) as disk:
            assert found(disk, (*tokens, 1)) == 0


def test_a_cut_file_and_one_of_another_name_are_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(40)))
        keep(disk, tuple(range(100, 140)))
    cut, renamed = files(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-8])
    renamed.rename(renamed.with_name(f"{'0' * 64}.safetensors"))
    with opened(tmp_path) as disk:
        assert found(disk, tuple(range(50))) == found(disk, tuple(range(100, 150))) == 0
        assert disk.damaged == 2
    assert not files(tmp_path)


def test_a_file_that_is_gone_is_a_miss(tmp_path: Path) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(40)))
        files(tmp_path)[0].unlink()
        assert found(disk, tuple(range(50))) == 0
        assert (disk.damaged, len(disk)) == (0, 0)


@pytest.mark.parametrize("other", [{"vocab_size": 300}, {"adapters": ("x",)}])
def test_another_models_entries_are_never_used(tmp_path: Path, other: dict[str, object]) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(40)))
    with opened(tmp_path, engine=MockEngine(1, 512, **other)) as disk:  # type: ignore[arg-type]
        assert (len(disk), found(disk, tuple(range(50)))) == (0, 0)
    assert len(files(tmp_path)) == 1


def test_the_identity_names_library_processor_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(MockEngine):
        """The same weights, computed otherwise."""

        def prefill(self, *args: object, **named: object) -> object:  # type: ignore[override]
            prefix = super().prefill(*args, **named)  # type: ignore[arg-type]
            prefix.kv[0] += 1
            return prefix

    def identity(engine: Engine) -> str:
        with opened(tmp_path, engine=engine) as disk:
            return disk.identity

    known = identity(mock())
    assert identity(mock(slots=3, max_len=400)) == known
    assert identity(Other(slots=1, max_len=512)) != known
    monkeypatch.setattr(prefix_disk, "versions", lambda engine: {"numpy": "0"})
    assert identity(mock()) != known
    monkeypatch.undo()
    monkeypatch.setattr(prefix_disk.host, "processor", lambda: "another")
    assert identity(mock()) != known


def test_a_shorter_context_takes_what_it_can(tmp_path: Path) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(200)))
    with opened(tmp_path, engine=mock(max_len=64)) as disk:
        assert found(disk, tuple(range(60))) == 60


def test_the_budget_takes_the_least_recently_used(tmp_path: Path) -> None:
    entries = [tuple(range(start, start + 40)) for start in (0, 50, 100)]
    with opened(tmp_path) as disk:
        keep(disk, entries[0])
        size = disk.nbytes
    with opened(tmp_path, 2 * size + size // 2) as disk:
        keep(disk, entries[1])
        assert found(disk, (*entries[0], 1)) == 40
        keep(disk, entries[2])
        assert [found(disk, (*entry, 1)) for entry in entries] == [40, 0, 40]
        assert disk.nbytes == sum(path.stat().st_size for path in files(tmp_path)) <= disk.budget
    with opened(tmp_path, size) as disk:
        assert len(disk) == len(files(tmp_path)) == 1


def test_which_was_used_last_outlives_the_process(tmp_path: Path) -> None:
    entries = [tuple(range(start, start + 40)) for start in (0, 50)]
    with opened(tmp_path) as disk:
        for place, entry in enumerate(entries):
            keep(disk, entry)
            os.utime(files(tmp_path)[-1], (place + 1, place + 1))
        assert found(disk, (*entries[0], 1)) == 40
        size = disk.nbytes // 2
    with opened(tmp_path, size) as disk:
        assert [found(disk, (*entry, 1)) for entry in entries] == [40, 0]


def test_other_models_files_go_first(tmp_path: Path) -> None:
    with opened(tmp_path, engine=mock(vocab_size=300)) as disk:
        keep(disk, tuple(range(40)))
        size = disk.nbytes
    with opened(tmp_path, 2 * size + size // 2) as disk:
        keep(disk, tuple(range(40)))
        assert len(files(tmp_path)) == 2
        keep(disk, tuple(range(50, 90)))
        assert len(disk) == len(files(tmp_path)) == 2


def test_a_longer_entry_takes_the_place_of_its_beginning(tmp_path: Path) -> None:
    with opened(tmp_path) as disk:
        for length in (20, 60, 40):
            keep(disk, tuple(range(length)))
        assert len(disk) == len(files(tmp_path)) == 1
        assert found(disk, tuple(range(70))) == 60


def test_files_are_the_owners_alone_and_whole(tmp_path: Path) -> None:
    with opened(tmp_path / "new") as disk:
        keep(disk, tuple(range(40)))
        (path,) = files(tmp_path)
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        fresh, stale = path.with_name(".fresh.1.tmp"), path.with_name(".stale.1.tmp")
        for one in (fresh, stale):
            one.write_bytes(b"half")
        os.utime(stale, (1, 1))
    with opened(tmp_path / "new") as disk:
        assert (fresh.exists(), stale.exists(), len(disk)) == (True, False, 1)


def test_a_disk_that_refuses_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: str, flags: int) -> int:
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as disk:
        monkeypatch.setattr(prefix_disk, "_private", full)
        for start in (0, 50):
            keep(disk, tuple(range(start, start + 40)))
        assert (disk.failed, disk.written, len(disk)) == (2, 0, 0)
        assert len([line for line in caplog.records if "No space" in line.getMessage()]) == 1
        monkeypatch.undo()
        keep(disk, tuple(range(40)))
        assert disk.written == 1


def test_eviction_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may wait are skipped, and counted."""
    count, gate = 8, threading.Event()
    with opened(tmp_path) as disk:
        write = disk._write

        def held(job: Job) -> Stored:
            assert gate.wait(WAIT)
            return write(job)

        monkeypatch.setattr(disk, "_write", held)
        for start in range(count):
            tokens = tuple(range(30 * start, 30 * start + 20))
            disk.keep("", tokens, disk.engine.prefill(tokens))
        assert disk.skipped in (count - WAITING, count - WAITING - 1)  # one may be at the writer already
        gate.set()
        disk.flush()
        assert len(disk) == disk.written == count - disk.skipped


def test_a_folder_that_cannot_be_made_costs_only_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert open_disk(tmp_path / "file", MIB, mock()) is None
    assert len(caplog.records) == 1
    run = scheduler(tmp_path / "file")
    assert answer(run, HELLO)[0] == by_hand(HELLO)
    run.close()


def test_a_directory_needs_both_budgets() -> None:
    with pytest.raises(UserError, match="prefix_cache_dir"):
        SchedulerSettings(prefix_cache_dir="somewhere", prefix_cache_bytes=1)


def test_the_salt_is_text_in_the_file(tmp_path: Path) -> None:
    with opened(tmp_path) as disk:
        keep(disk, tuple(range(40)), ("tenant", "salt", None))
    data = files(tmp_path)[0].read_bytes()
    assert json.dumps([["tenant", "salt", None], None]).encode() in data
    assert Stored(1).nbytes == 0
