"""A headless Chromium driven through the DevTools protocol, over one WebSocket for each page: for tests and measurements,
needed by nobody who answers."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
)

SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
"""Options that give pages WebGPU on a processor: for its results, not its speed."""


def executable() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. Its requests are noted as they are sent."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._next = 0
        self.requests: list[str] = []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._next:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> Any:
        """The first true value of a condition."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(condition)):
            assert time.monotonic() < deadline, f"{condition} did not come: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Callable[[str], Page]]:
    """A function that opens a page at an address, in a browser of its own over the user profile `profile`."""
    program = executable()
    assert program is not None
    arguments = [program, *OPTIONS, *options, f"--user-data-dir={profile}", "about:blank"]
    profile.mkdir(exist_ok=True)
    (profile / "DevToolsActivePort").unlink(missing_ok=True)  # of an earlier run
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        pages: list[Page] = []
        try:
            endpoint = f"http://127.0.0.1:{_port(profile, process)}"

            def open_page(address: str) -> Page:
                request = urllib.request.Request(f"{endpoint}/json/new?about:blank", method="PUT")
                with urllib.request.urlopen(request, timeout=30) as answer:
                    pages.append(Page(json.load(answer)["webSocketDebuggerUrl"]))
                pages[-1].call("Page.navigate", url=address)
                return pages[-1]

            yield open_page
        finally:
            for page in pages:
                page.close()
            process.terminate()


def tabs_peak(profile: Path) -> int:
    """Largest VmHWM, in bytes, of the processes that the tabs of the browser over `profile` have."""
    own = f"--user-data-dir={profile}"
    browsers = [one for one in psutil.process_iter(["cmdline"]) if own in (one.info["cmdline"] or ())]
    tabs = [one for each in browsers for one in each.children(recursive=True) if "--type=renderer" in one.cmdline()]
    peaks = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one.pid}/status").read_text()) for one in set(tabs)]
    return max(1024 * int(found[1]) for found in peaks if found)


def _port(profile: Path, process: "subprocess.Popen[bytes]") -> int:
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
    while not (file.is_file() and file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
