"""A Redis of our own: what it holds at most, and that it does not outlive us."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import redis as redis_client

from tradewind.caching.node import ENDS_WITH_US, MEMORY, redis_node

WAIT = 20.0
PARENT = """
import time
from tradewind.caching.node import redis_node
with redis_node() as node:
    print(node.pid, flush=True)
    time.sleep(60)
"""


def test_it_lets_old_values_go_where_it_is_full() -> None:
    with redis_node(2 << 20) as node, redis_client.Redis.from_url(node.url) as client:
        for place in range(500):
            client.set(f"value {place}", b"x" * 10_000)
        assert 0 < client.dbsize() < 500
        assert client.exists("value 499")
    with redis_node() as node, redis_client.Redis.from_url(node.url) as client:
        assert int(client.config_get("maxmemory")["maxmemory"]) == MEMORY


@pytest.mark.skipif(shutil.which(ENDS_WITH_US[0]) is None, reason="setpriv (util-linux) is missing")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(WAIT)
        latest = time.monotonic() + WAIT
        while _runs(pid):
            assert time.monotonic() < latest
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    """A dead one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
