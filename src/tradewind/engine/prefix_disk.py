"""The prefix cache's second tier: keys and values in files, so that what was prefilled outlives memory and process.

The life of an entry:
1. It leaves memory (evicted, or the scheduler ends), and `keep` hands it to a thread that writes it: one safetensors file,
   readable by its owner alone, named after the SHA-256 of its bytes, there only when whole.
2. A later process finds it in the folder by its tokens; `find` reads it where it saves more than memory does.
3. The least recently used file goes when the bytes exceed the budget; those of other models or libraries go before.

A folder below the given one belongs to one identity: engine, weights, library versions, processor, shapes, and the very
keys and values of a few tokens, so that nothing is found that this engine would not have computed. A file that is not
what its name says is dropped with one line in the log.
Not covered: whoever can write the folder can change answers, and whoever can read it can read prompts; processes that
share a folder each hold the budget for what they know of; what is in memory when a process is killed. Used by the
engine's thread only, but for the writing.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from tradewind import host
from tradewind.engine.contract import Engine, Prefix
from tradewind.engine.prefix_arrays import arrays_of, prefix_of, shapes_of, versions
from tradewind.engine.prefix_cache import LEAST, PrefixCache, Tokens
from tradewind.files import atomic_path, digest

log = logging.getLogger(__name__)

FORMAT = 1
PROBE = 16
"""Tokens whose keys and values are part of the identity."""
WAITING = 4
"""Entries that wait to be written at most, as each holds memory beyond the cache's budget; more are not kept."""
STALE_S = 3600.0
"""Age from which an unfinished file is a dead process's."""
DAMAGED = (SafetensorError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Stored(Prefix):
    path: Path = Path()
    size: int = 0

    @property
    def nbytes(self) -> int:
        return self.size


@dataclass(frozen=True)
class Job:
    salt: Hashable
    tokens: Tokens
    prefix: Prefix


class PrefixDisk:
    """budget: bytes of files. queries, hits: prompt tokens that memory did not find, and those found here (vLLM's
    `external_prefix_cache_*`). read_s: seconds spent on reading them. written: files. skipped: entries not written, as too
    many waited; failed: as the disk refused. damaged: files dropped.
    """

    def __init__(self, folder: Path, budget: int, engine: Engine) -> None:
        """Raises OSError where the folder cannot be made, KeyError for an engine whose prefixes cannot be written."""
        self.engine, self.budget = engine, budget
        self.queries = self.hits = self.written = self.skipped = self.failed = self.damaged = 0
        self.read_s = 0.0
        probe = arrays_of(engine, engine.prefill([token % engine.vocab_size for token in range(_probe(engine))]))
        self._shapes = shapes_of(engine, probe)
        self.identity = digest(_facts(engine, probe))
        self.folder = folder / self.identity
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._foreign = _others(folder, self.folder)
        self._entries = PrefixCache(budget, _unlink_stored)
        self._read_folder()
        self._make_room()
        self._refused = False  # by the disk, the last time
        self._done: deque[tuple[Job, Stored]] = deque()
        self._jobs: Queue[Job | None] = Queue(WAITING)
        self._writer = threading.Thread(target=self._write_all, name="prefixes", daemon=True)
        self._writer.start()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._entries.nbytes

    @property
    def counts(self) -> dict[str, float]:
        lost = self.skipped + self.failed + self.damaged
        counts = {"queries": self.queries, "hits": self.hits, "entries": len(self), "bytes": self.nbytes,
                  "written": self.written, "lost": lost, "read_s": self.read_s}  # fmt: skip
        return {f"disk_{name}": value for name, value in counts.items()}

    def find(self, salt: Hashable, prompt: Tokens, known: int) -> tuple[Tokens, Prefix] | None:
        """An entry that begins as the prompt does for at least LEAST tokens more than the `known` ones, and its tokens."""
        self._take_written()
        self.queries += len(prompt) - known
        while (found := self._entries.longest(salt, prompt)) is not None:
            length, stored = found
            if length < known + LEAST:
                return None
            assert isinstance(stored, Stored)
            start = time.monotonic()
            try:
                tokens, prefix = self._read(stored, salt)
            except FileNotFoundError:
                log.info("%s: another process has removed it", stored.path)
            except (OSError, *DAMAGED) as error:
                self.damaged += 1
                log.warning("%s: not what was written, dropped (%s: %s)", stored.path, type(error).__name__, error)
            else:
                self.hits += length - known
                self.read_s += time.monotonic() - start
                return tokens, prefix
            self._entries.remove(stored)
        return None

    def keep(self, salt: Hashable, tokens: Tokens, prefix: Prefix, wait: bool = False) -> None:
        """Have it written, unless it is there. wait: for its turn, instead of skipping it where others wait."""
        self._take_written()
        if self._entries.holds(salt, tokens) or prefix.nbytes > self.budget:
            return
        try:
            self._jobs.put(Job(salt, tokens, prefix), block=wait)
        except Full:
            self.skipped += 1

    def close(self) -> None:
        """Wait until everything is written."""
        self._jobs.put(None)
        self._writer.join()
        self._take_written()

    def flush(self) -> None:
        """Wait until everything that was handed in is written."""
        self._jobs.join()
        self._take_written()

    def _take_written(self) -> None:
        while self._done:
            job, stored = self._done.popleft()
            self.written += 1
            self._index(job.salt, job.tokens, stored)
        self._make_room()

    def _index(self, salt: Hashable, tokens: Tokens, stored: Stored) -> None:
        """A file that adds nothing to the others, or is too large, goes."""
        if not self._entries.holds(salt, tokens):
            self._entries.insert(salt, tokens, stored)
        known = self._entries.longest(salt, (*tokens, 0))
        if known is None or not isinstance(known[1], Stored) or known[1].path != stored.path:
            _unlink(stored.path)

    def _make_room(self) -> None:
        while self._foreign and self.nbytes + sum(size for _, _, size in self._foreign) > self.budget:
            _unlink(self._foreign.pop(0)[1])

    # Files.

    def _read_folder(self) -> None:
        """The index from the files' heads, oldest first. Whether they are whole is seen when one is used."""
        for when, path, size in _files(self.folder):
            if path.suffix == ".tmp":
                if time.time() - when > STALE_S:
                    _unlink(path)
                continue
            try:
                with safe_open(path, framework="np") as file:
                    salt, adapter = _salt(file.get_tensor("salt"))
                    tokens = tuple(file.get_tensor("tokens").tolist())
                self._index(salt, tokens, Stored(len(tokens), adapter=adapter, path=path, size=size))
            except FileNotFoundError:
                continue
            except (OSError, *DAMAGED) as error:
                self.damaged += 1
                log.warning("%s: no entry of a prefix cache, dropped (%s: %s)", path, type(error).__name__, error)
                _unlink(path)

    def _read(self, stored: Stored, salt: Hashable) -> tuple[Tokens, Prefix]:
        """Raises FileNotFoundError, OSError, or one of DAMAGED."""
        data = stored.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != stored.path.stem:
            raise ValueError("its bytes have another SHA-256")
        tensors = load(data)
        tokens = tuple(tensors.pop("tokens").tolist())
        if _salt(tensors.pop("salt")) != (salt, stored.adapter) or len(tokens) != stored.length:
            raise ValueError("it was indexed as another entry")
        held = min(len(tokens), self.engine.max_len)  # it may have been larger then
        arrays = [shape.read(tensors[f"kv.{place}"], len(tokens), held) for place, shape in enumerate(self._shapes)]
        os.utime(stored.path)
        return tokens[:held], prefix_of(self.engine, arrays, held, stored.adapter)

    # The writer's thread.

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._done.append((job, self._write(job)))
                self._refused = False
            except Exception as error:
                self.failed += 1
                if not self._refused:  # one line, not one an entry
                    log.warning("prefixes cannot be written to %s: %s: %s", self.folder, type(error).__name__, error)
                self._refused = True
            finally:
                self._jobs.task_done()
                del job

    def _write(self, job: Job) -> Stored:
        salt = json.dumps([job.salt, job.prefix.adapter], sort_keys=True)
        tensors: dict[str, NDArray[np.generic]] = {
            "salt": np.frombuffer(salt.encode(), np.uint8),
            "tokens": np.asarray(job.tokens, np.int64),
        }
        for place, array in enumerate(arrays_of(self.engine, job.prefix)):
            tensors[f"kv.{place}"] = array.reshape(-1).view(np.uint8)
        data = save(tensors)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        with atomic_path(path) as temporary, open(temporary, "xb", opener=_private) as file:
            file.write(data)
        return Stored(len(job.tokens), adapter=job.prefix.adapter, path=path, size=len(data))


def open_disk(folder: Path, budget: int, engine: Engine) -> PrefixDisk | None:
    """None, and a line in the log, where there can be none: the engine runs without."""
    try:
        return PrefixDisk(folder, budget, engine)
    except Exception as error:
        log.warning("no prefixes are kept in %s: %s: %s", folder, type(error).__name__, error)
        return None


def _probe(engine: Engine) -> int:
    return min(PROBE, engine.max_len)


def _facts(engine: Engine, probe: list[NDArray[np.generic]]) -> dict[str, object]:
    """All that the keys and values of given tokens are a function of."""
    return {
        "format": FORMAT,
        "engine": engine.name,
        "weights": engine.weights_digest,
        "libraries": versions(engine),
        "processor": host.processor(),
        "arrays": [[str(array.dtype), list(array.shape)] for array in probe],
        "values": hashlib.sha256(b"".join(array.tobytes() for array in probe)).hexdigest(),
    }


def _salt(data: NDArray[np.uint8]) -> tuple[Hashable, str | None]:
    """Salt and adapter."""
    salt, adapter = json.loads(data.tobytes())
    return tuple(salt) if isinstance(salt, list) else salt, adapter


def _others(folder: Path, own: Path) -> list[tuple[float, Path, int]]:
    """Files of other identities, oldest first."""
    return sorted(one for other in folder.iterdir() if other.is_dir() and other != own for one in _files(other))


def _files(folder: Path) -> list[tuple[float, Path, int]]:
    """(modified, path, bytes), oldest first."""
    found = []
    for path in folder.iterdir():
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        found.append((facts.st_mtime, path, facts.st_size))
    return sorted(found)


def _private(path: str, flags: int) -> int:
    """An `opener`: for the owner alone from its first byte on."""
    return os.open(path, flags, 0o600)


def _unlink_stored(prefix: Prefix) -> None:
    """An entry left the index, and so does its file."""
    assert isinstance(prefix, Stored)
    _unlink(prefix.path)


def _unlink(path: Path) -> None:
    """A file that cannot be removed costs room, not an answer."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: cannot be removed: %s", path, error)
