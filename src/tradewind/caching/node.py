"""A Redis server of our own, on a free port of this machine: started with a server or a test, and stopped with it.

It keeps nothing on disk, and ends with the thread that started it, killed or not, where the program `setpriv` is (Linux;
elsewhere a killed parent leaves it behind). For one that outlives us, or that several machines share, run Redis yourself
and give its address.
"""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tradewind.errors import UserError

PROGRAM = "redis-server"
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Runs a program that the kernel ends with its parent: in the program itself, no code of ours between fork and exec."""
START_S, STOP_S = 10.0, 5.0
MEMORY = 256 << 20


class RedisNode:
    """`start` and `stop` as often as wanted, on the same port; `pause` leaves its connections open and answers nobody.

    memory: bytes that it holds at most; 0: no limit. evict: whether old values go when it is full, or new ones are refused.
    Raises UserError where the program is missing or does not start.
    """

    def __init__(self, port: int = 0, memory: int = 0, evict: bool = True) -> None:
        if shutil.which(PROGRAM) is None:
            raise UserError(f"{PROGRAM} is not installed: apt-get install {PROGRAM}, or give redis://HOST:PORT")
        self.port, self.memory, self.evict = port or _free_port(), memory, evict
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        policy = "allkeys-lru" if self.evict else "noeviction"
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": "/tmp", "loglevel": "warning"}
        options |= {"maxmemory": self.memory, "maxmemory-policy": policy}
        leash = ENDS_WITH_US if shutil.which(ENDS_WITH_US[0]) else ()
        command = [*leash, PROGRAM, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        latest = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > latest:
                self.stop()
                raise UserError(f"{PROGRAM} did not start on port {self.port}")
            time.sleep(0.01)

    def stop(self) -> None:
        """At once: as a node that is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_node(memory: int = MEMORY) -> Iterator[RedisNode]:
    """For the length of the block. memory: bytes that it holds at most, the least used go for others."""
    node = RedisNode(memory=memory)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
