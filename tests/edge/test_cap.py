import subprocess
import sys
from pathlib import Path

from tradewind.edge.cap import MIB, Group, Watchdog, choose_cap, own_group
from tradewind.host import peak_rss

GROW = "import sys; kept = [bytearray(1 << 20) for _ in range(int(sys.argv[1]))]; print(len(kept)); sys.stdin.read()"


def started(mebibytes: int) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", GROW, str(mebibytes)], stdin=pipe, stdout=pipe, text=True)


def test_the_watchdog_kills_what_grows_beyond_and_leaves_the_rest():
    with started(400) as large:
        cap = Watchdog(200 * MIB)
        cap.watch(large)
    assert cap.exceeded and large.returncode == -9
    with started(20) as small:
        small.communicate()
        cap = Watchdog(200 * MIB)
        cap.watch(small)
    assert not cap.exceeded and small.returncode == 0


def test_the_peak_is_that_of_the_process_and_none_of_one_that_has_ended():
    with started(60) as process:
        assert process.stdout is not None and process.stdout.readline() == "60\n"
        assert 60 * MIB < peak_rss(process.pid) < 120 * MIB
        process.communicate()
    assert peak_rss(process.pid) == 0


def fake_kernel(monkeypatch, files: dict[str, str]) -> None:
    """A folder that is made holds the files that cgroup v2 puts there; they vanish with it."""

    def mkdir(folder: Path) -> None:
        real(folder)
        for name, text in files.items():
            (folder / name).write_text(text)

    def rmdir(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        remove(folder)

    real, remove = Path.mkdir, Path.rmdir
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)


def test_a_group_is_made_where_the_kernel_offers_a_memory_controller(tmp_path, monkeypatch):
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "cgroup.procs")
    fake_kernel(monkeypatch, {**dict.fromkeys(names, "max "), "memory.events": "low 0\noom_kill 1\n"})
    cap = choose_cap(256 * MIB, tmp_path)
    assert isinstance(cap, Group) and cap.folder.parent == tmp_path
    assert (cap.folder / "memory.max").read_text().startswith(str(256 * MIB))
    assert (cap.folder / "memory.swap.max").read_text().startswith("0")
    with subprocess.Popen([sys.executable, "-c", ""], text=True) as process:
        cap.watch(process)
    assert cap.exceeded
    cap.close()
    assert not list(tmp_path.iterdir())


def test_without_a_controller_the_watchdog_is_taken_and_nothing_is_left(tmp_path, monkeypatch):
    inner = tmp_path / "own"
    inner.mkdir()
    fake_kernel(monkeypatch, {"cgroup.procs": ""})
    assert isinstance(choose_cap(256 * MIB, inner), Watchdog)
    assert [path.name for path in tmp_path.iterdir()] == ["own"] and not list(inner.iterdir())


def test_this_process_knows_its_group_or_has_none():
    folder = own_group()
    assert folder is None or folder.is_dir()
