"""Checkpoints of one training run: saved with Orbax, verified when read, resumed exactly.

A run is named by the digest of its parameters and inputs, so that a change of either starts afresh. A checkpoint holds
every array of the training state, the log so far and the arrays' digest; one that cannot be read, or whose digest
differs, is passed over for the one before it, and said so. This file does not know what is trained.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from tradewind.errors import UserError
from tradewind.files import digest, remove, sha256_file

T = TypeVar("T")
ROOT = Path(".tradewind/checkpoints")


class Restored(NamedTuple):
    """A checkpoint's content: steps done, the state, the log of those steps."""

    step: int
    state: Any
    log: list[dict[str, Any]]


def run_folder(stage: str, params: Mapping[str, Any], inputs: list[str | Path], root: Path = ROOT) -> Path:
    """Where a stage's checkpoints lie: named by the digest of its parameters and of its input files."""
    files = {str(path): sha256_file(path) for path in inputs}
    return root / stage / digest({"params": dict(params), "inputs": files})


class Checkpoints:
    """The checkpoints of one run in `folder`, the newest `keep` of them."""

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder).resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, log: list[dict[str, Any]]) -> None:
        """Save after `step` steps; complete on return, and never half there."""
        arrays = _named(state)
        meta = {
            "digest": _digest(arrays),
            "shapes": {name: list(np.shape(a)) for name, a in arrays.items()},
            "log": log,
        }
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args, force=True)

    def restore(self, template: T) -> Restored | None:
        """The newest readable checkpoint, its arrays placed as the template's; None where there is none at all.

        Raises:
            UserError: an array has another shape than the template's, or no checkpoint can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._read(step, template)
            except (ValueError, OSError, KeyError, TypeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
                print(
                    f"checkpoint {self.folder / str(step)} cannot be read ({reason}): trying the one before",
                    file=sys.stderr,
                )
                self._manager.delete(step)  # else its step could not be saved again
        if steps:
            raise UserError(f"{self.folder}: no checkpoint can be read; remove this folder to train from the start")
        return None

    def clear(self) -> None:
        """Remove the run's checkpoints: its result is written."""
        self._manager.close()
        remove(self.folder)

    def _read(self, step: int, template: T) -> Restored:
        wanted = _named(template)
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        self._check_shapes(step, wanted, meta["shapes"])
        args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)))
        arrays = self._manager.restore(step, args=args)["state"]
        if _digest(arrays) != meta["digest"]:
            raise ValueError("its arrays are not those that were saved")
        return Restored(step, _renamed(template, arrays), list(meta["log"]))

    def _check_shapes(self, step: int, wanted: Mapping[str, Any], found: Mapping[str, list[int]]) -> None:
        for name in sorted({*wanted, *found}):
            there = tuple(found[name]) if name in found else None
            needed = np.shape(wanted[name]) if name in wanted else None
            if there != needed:
                where = f"checkpoint {self.folder / str(step)}"
                raise UserError(f"{where}: tensor {name} has shape {there}, this run needs {needed}")


def _named(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _renamed(template: T, arrays: Mapping[str, Any]) -> T:
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in _named(template)])


def _digest(arrays: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(np.asarray(arrays[name])).tobytes())
    return total.hexdigest()[:16]
