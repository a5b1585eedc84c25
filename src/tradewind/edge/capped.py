"""Ask a variant under a memory cap: start the process that answers, pass its text on, and say why it ended.

It knows the cap and the events, not how an answer comes to be.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from threading import Thread
from typing import Any

from tradewind.edge.ask import Ask
from tradewind.edge.cap import MIB, Cap, choose_cap
from tradewind.errors import UserError

COMMAND = (sys.executable, "-m", "tradewind.edge.answer")


class CapExceeded(UserError):
    """The cap ended the process."""


def answer_capped(ask: Ask, mebibytes: int, show: Callable[[str], None]) -> dict[str, Any]:
    """The figures of the answer, with the cap's; `show` gets its text piece by piece.

    Raises CapExceeded, or a UserError that the process raised.
    """
    if mebibytes < 1:
        raise UserError(f"a memory cap of {mebibytes} MiB holds nothing")
    cap = choose_cap(mebibytes * MIB)
    try:
        figures = _run(ask, cap, show)
    finally:
        cap.close()
    return {**figures, "cap_bytes": cap.limit, "cap": cap.mechanism}


def _run(ask: Ask, cap: Cap, show: Callable[[str], None]) -> dict[str, Any]:
    pipe = subprocess.PIPE
    with subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, text=True, preexec_fn=cap.join) as process:
        watcher = Thread(target=cap.watch, args=(process,), daemon=True)
        watcher.start()
        try:
            last = _talk(process, ask, show)
        except BaseException:
            process.kill()
            raise
        finally:
            watcher.join()
    return _verdict(last, process.returncode, cap)


def _talk(process: "subprocess.Popen[str]", ask: Ask, show: Callable[[str], None]) -> dict[str, Any]:
    """The last event that is not text; none where the process was killed."""
    assert process.stdin is not None and process.stdout is not None
    last: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(asdict(ask)) + "\n")
        process.stdin.close()
    except BrokenPipeError:
        return last
    for line in process.stdout:
        event = json.loads(line)
        if "text" in event:
            show(event["text"])
        else:
            last = event
    return last


def _verdict(last: dict[str, Any], code: int, cap: Cap) -> dict[str, Any]:
    figures: dict[str, Any] | None = last.get("figures")
    if figures is not None:
        cap.saw(figures["peak_rss_bytes"])
    if cap.exceeded:
        told = f"the answer needs more than {cap.limit // MIB} MiB: its process was ended by {cap.mechanism}"
        raise CapExceeded(told)
    if figures is None:
        raise UserError(last.get("error") or f"the process that answers ended with code {code}")
    return figures
