"""API keys: a file of hashes, who a key stands for, and the command that makes new ones.

The life of a key: 1. `python -m tradewind.serving.keys new --tenant T` prints it once and adds its hash to the file;
2. the server reads the file at its start; 3. each call's key is hashed and looked for among the hashes in constant time;
4. to take a key back, delete its entry and restart the server.

The hash is one SHA-256 and not scrypt or argon2: those slow down guessing at passwords, and a key is 32 random bytes
that nobody guesses; a slow hash would only cost every request its time and give attackers a way to load the server.
Not covered: expiry dates, reading the file anew while serving.
"""

import argparse
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tradewind.config import build, run
from tradewind.errors import UserError

SCOPES = ("models", "generate", "metrics", "admin")
DEFAULT_SCOPES = ("models", "generate")
DEFAULT_TENANT = "default"
FIRST, LAST = -100, 100
"""Priorities that a call may ask for: a smaller one goes first."""
FILE_VARIABLE, KEYS_VARIABLE = "TRADEWIND_KEYS_FILE", "TRADEWIND_API_KEYS"
PREFIX, RANDOM_BYTES = "sk-tw-", 32


@dataclass(frozen=True)
class Limits:
    """Each from 1; None: no limit. Tokens are those of prompts and answers together."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise UserError(f"limits.{name}: {value} is not at least 1")


@dataclass(frozen=True)
class ApiKey:
    """One entry of the file. hash: SHA-256 of the key, in hexadecimal digits. priority: the smallest, that is the first
    served, that its calls may ask for: with the default they may step back and not ahead.
    """

    id: str
    hash: str
    tenant: str = DEFAULT_TENANT
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    limits: Limits = field(default_factory=Limits)
    priority: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.scopes) - set(SCOPES)):
            raise UserError(f"key {self.id}: unknown scope {unknown[0]!r} (choices: {', '.join(SCOPES)})")
        if len(self.hash) != 64 or set(self.hash) - set("0123456789abcdef"):
            raise UserError(f"key {self.id}: the hash is not 64 hexadecimal digits")
        if not self.tenant:
            raise UserError(f"key {self.id}: a tenant has a name")
        if not FIRST <= self.priority <= LAST:
            raise UserError(f"key {self.id}: the priority {self.priority} is not in {FIRST}..{LAST}")


@dataclass(frozen=True)
class Principal:
    """Who calls, what they may do, the limits of the key and of its tenant, and the smallest priority of its calls."""

    key: str = "anonymous"
    tenant: str = DEFAULT_TENANT
    scopes: tuple[str, ...] = SCOPES
    limits: Limits = field(default_factory=Limits)
    tenant_limits: Limits = field(default_factory=Limits)
    priority: int = FIRST


ANONYMOUS = Principal()
"""The caller of a server without keys: it may do everything."""


class Keyring:
    """The known keys. Falsy where there are none, which means that no key is asked for."""

    def __init__(self, keys: tuple[ApiKey, ...] = (), tenants: Mapping[str, Limits] | None = None) -> None:
        tenants = tenants or {}
        self._known = [
            (
                bytes.fromhex(key.hash),
                Principal(key.id, key.tenant, key.scopes, key.limits, tenants.get(key.tenant, Limits()), key.priority),
            )
            for key in keys
        ]

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, key: str) -> Principal | None:
        """Compares with every hash, so that the time taken tells nothing."""
        given = bytes.fromhex(hash_of(key))
        matches = [principal for known, principal in self._known if hmac.compare_digest(given, known)]
        return matches[0] if matches else None


def plain_keys(keys: tuple[str, ...]) -> tuple[ApiKey, ...]:
    """Keys given in clear text, of the default tenant, with every scope and priority and no limit."""
    return tuple(ApiKey(f"env-{place}", hash_of(key), scopes=SCOPES, priority=FIRST) for place, key in enumerate(keys))


def keyring(path: str = "") -> Keyring:
    """The keys of the file (`path`, else TRADEWIND_KEYS_FILE) and of TRADEWIND_API_KEYS. Raises UserError."""
    given = tuple(key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip())
    path = path or os.environ.get(FILE_VARIABLE, "")
    keys, tenants = read_keys(Path(path)) if path else ((), {})
    if path and not keys and not given:
        raise UserError(
            f"{path}: no key is left in it, and without keys anybody may call; name no file if that is meant"
        )
    return Keyring((*keys, *plain_keys(given)), tenants)


def read_keys(path: Path) -> tuple[tuple[ApiKey, ...], dict[str, Limits]]:
    """The entries and the tenants' limits. Raises UserError naming the entry at fault."""
    held = _load(path)
    if unknown := sorted(set(held) - {"keys", "tenants"}):
        raise UserError(f"{path}: unknown key {unknown[0]!r} (choices: keys, tenants)")
    entries, limits = held.get("keys", []), held.get("tenants", {})
    if not isinstance(entries, list) or not isinstance(limits, dict):
        raise UserError(f"{path}: `keys` is an array and `tenants` an object")
    keys = tuple(build(ApiKey, entry, f"{path}: keys[{place}]") for place, entry in enumerate(entries))
    if len({key.id for key in keys}) < len(keys):
        raise UserError(f"{path}: two keys have the same id")
    tenants = {name: build(Limits, one, f"{path}: tenants.{name}") for name, one in limits.items()}
    return keys, tenants


def add_key(path: Path, tenant: str, scopes: tuple[str, ...], limits: Limits, priority: int = 0) -> str:
    """Make a key, add its hash to the file (which is made where there is none), and return the key."""
    held = _load(path) if path.exists() else {"keys": [], "tenants": {}}
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    entry = ApiKey(f"key-{secrets.token_hex(4)}", hash_of(key), tenant, scopes, limits, priority)
    held.setdefault("keys", []).append(asdict(entry))
    _write(path, held)
    return key


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the keys: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(held, dict):
        raise UserError(f"{path}: not a JSON object with `keys` and `tenants`")
    return held


def _write(path: Path, held: dict[str, Any]) -> None:
    """Whole or not at all, readable by its owner only. Raises UserError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(held, file, indent=2)
            file.write("\n")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the keys: {error.strerror}") from None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tradewind.serving.keys", description="Make API keys.")
    new = parser.add_subparsers(dest="command", required=True).add_parser("new", help="print a new key, once")
    new.add_argument("--tenant", default=DEFAULT_TENANT)
    new.add_argument("--scopes", nargs="+", choices=SCOPES, default=DEFAULT_SCOPES)
    new.add_argument("--file", help=f"default: {FILE_VARIABLE}")
    new.add_argument(
        "--priority", type=int, default=0, help="the smallest that its calls may ask for; smaller is first"
    )
    for name in asdict(Limits()):
        new.add_argument(f"--{name.replace('_', '-')}", type=int)
    given = parser.parse_args(argv)
    path = given.file or os.environ.get(FILE_VARIABLE)
    if not path:
        raise UserError(f"say which file with --file or {FILE_VARIABLE}")
    limits = Limits(**{name: vars(given)[name] for name in asdict(Limits())})
    print(add_key(Path(path), given.tenant, tuple(given.scopes), limits, given.priority))


if __name__ == "__main__":
    run(main)
