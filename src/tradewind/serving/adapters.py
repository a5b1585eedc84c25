"""LoRA adapters as models of their own: over the main variant, in its engine, loaded and unloaded while it serves.

The life of an adapter: 1. `--adapter NAME=FOLDER` or `/v1/load_lora_adapter` names it; 2. it is read and checked outside
the engine's thread, so that running answers go on, and added between two of their steps; 3. a call with `model: NAME`
runs with it, beside calls with others and with none; 4. `/v1/unload_lora_adapter` takes its name away at once, and the
adapter with it, unless an answer is being made with it.

The engine knows it by the digest of its content, never by its name: whatever is cached of its answers and prompts is that
content's. Routes and bodies are vLLM's. Not covered: adapters over the variants of `fanout`, clusters.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from tradewind.engine import Engine
from tradewind.engine.contract import AdapterInUse
from tradewind.engine.requests import Closed
from tradewind.engine.scheduler import Scheduler
from tradewind.errors import UserError, within
from tradewind.serving.body import parse, read_bytes
from tradewind.serving.catalog import Catalog, Served
from tradewind.serving.errors import ApiError

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class LoadAdapter(BaseModel):
    """lora_path: a folder of PEFT below the folder of the server's adapters."""

    model_config = ConfigDict(extra="forbid", strict=True)
    lora_name: str = Field(min_length=1, max_length=256)
    lora_path: str = Field(min_length=1, max_length=4096)


class UnloadAdapter(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    lora_name: str = Field(min_length=1, max_length=256)


def named_folders(given: Sequence[str]) -> dict[str, str]:
    """NAME=FOLDER, each. Raises UserError."""
    pairs = [one.partition("=") for one in given]
    for one, (name, _, folder) in zip(given, pairs, strict=True):
        if not name or not folder:
            raise UserError(f"adapter {one!r}: say NAME=FOLDER")
    made = {name: folder for name, _, folder in pairs}
    if len(made) < len(pairs):
        raise UserError("adapter: two have the same name")
    return made


def load_adapters(engine: Engine, given: Sequence[str]) -> dict[str, str]:
    """Load those of the settings into an engine that runs nothing yet; name -> digest. Raises UserError."""
    digests = {}
    for name, folder in named_folders(given).items():
        with within(f"--adapter {name}"):
            opened = engine.open_adapter(folder)
        digests[name] = opened.digest
        if opened.digest not in engine.adapters:
            engine.add_adapter(opened.digest, opened)
    return digests


def adapter_of(base: Served, name: str, folder: str, digest: str) -> Served:
    """What is served under an adapter's name."""
    identity = f"{base.identity}-{digest}" if base.identity else ""
    return replace(base, name=name, identity=identity, adapter=digest, root=folder, parent=base.name)


class Adapters:
    """folder: below which those of calls lie."""

    def __init__(self, catalog: Catalog, base: Served, folder: Path) -> None:
        """Raises UserError where the base runs elsewhere than in this process, or there is no such folder."""
        if not isinstance(base.scheduler, Scheduler):
            raise UserError("adapters need an engine in this process")
        if not folder.is_dir():
            raise UserError(f"--adapters-dir {folder}: no such folder")
        self.catalog, self.base, self.folder = catalog, base, folder.resolve()
        self._scheduler = base.scheduler
        self._changing = asyncio.Lock()

    async def load(self, name: str, path: str) -> None:
        """Raises ApiError for a name that is taken, and for a folder that is none of an adapter or does not fit."""
        engine = self._scheduler.engine
        async with self._changing:
            if name in self.catalog.names:
                raise ApiError("invalid_value", f"The model {name!r} is served already.", "lora_name")
            try:
                opened = await run_in_threadpool(engine.open_adapter, self._below(path))
            except UserError as error:
                raise ApiError("invalid_value", f"{error}.", "lora_path") from None
            if opened.digest not in engine.adapters:
                await self._do(lambda: engine.add_adapter(opened.digest, opened))
            self.catalog.add(adapter_of(self.base, name, path, opened.digest))

    async def unload(self, name: str) -> None:
        """Raises ApiError for a name that is no adapter's, and where an answer is being made with it: then it stays."""
        async with self._changing:
            served = self.catalog.served.get(name)
            if served is None or served.adapter is None:
                raise ApiError("model_not_found", f"The adapter {name!r} is not loaded.", "lora_name")
            self.catalog.remove(name)
            if any(one.adapter == served.adapter for one in self.catalog.served.values()):
                return
            try:
                await self._do(lambda: self._drop(str(served.adapter)))
            except AdapterInUse:
                self.catalog.add(served)
                text = f"The adapter {name!r} is in use: try again when its answers have ended."
                raise ApiError("adapter_in_use", text, "lora_name") from None

    def _drop(self, digest: str) -> None:
        """In the engine's thread."""
        if self._scheduler.runs(digest):
            raise AdapterInUse(f"adapter {digest}: a request waits or runs")
        self._scheduler.engine.drop_adapter(digest)

    async def _do(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.wrap_future(self._scheduler.between_turns(work))
        except Closed as error:
            raise ApiError("server_is_overloaded", str(error)) from None

    def _below(self, path: str) -> Path:
        found = (self.folder / path).resolve()
        if not found.is_relative_to(self.folder) or not found.is_dir():
            raise ApiError("invalid_value", f"There is no folder {path!r} among the server's adapters.", "lora_path")
        return found


def add_routes(app: FastAPI, adapters: Adapters, max_body_bytes: int) -> None:
    @app.post(LOAD, response_class=PlainTextResponse, openapi_extra=_body(LoadAdapter))
    async def load(request: Request) -> Response:
        """Serve a LoRA adapter under a name of its own."""
        asked = parse(await read_bytes(request, max_body_bytes), LoadAdapter)
        await adapters.load(asked.lora_name, asked.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @app.post(UNLOAD, response_class=PlainTextResponse, openapi_extra=_body(UnloadAdapter))
    async def unload(request: Request) -> Response:
        """Serve it no longer."""
        asked = parse(await read_bytes(request, max_body_bytes), UnloadAdapter)
        await adapters.unload(asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


def _body(wire: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": wire.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
