"""What a teacher says about rows of text, computed once: its likeliest tokens and hidden states at the target places.

The rows are on the student's tokenization; its ids map one to one into the teacher's, so the teacher runs on the mapped
ids and its distribution is renormalised over the student's vocabulary. On disk: `cache.safetensors` (the rows and the
teacher's arrays) and `header.json` (version, k, digests). A cache of another version or digest is refused.
Residual streams of several layers and attention relations are in it where they were asked for.
"""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from tradewind.compression.layerwise import enter, leave, through
from tradewind.errors import UserError
from tradewind.files import atomic_path, digest, read_json, sha256_file, write_json
from tradewind.model.decoder import Decoder
from tradewind.training.data import Batch, Packed
from tradewind.training.losses import Targets
from tradewind.training.taps import Taps, at_places, relations

VERSION = 2
READABLE = (1, 2)
"""Version 1 had neither streams nor relations."""

WEIGHTS_FILE, HEADER_FILE = "cache.safetensors", "header.json"


@dataclass(frozen=True)
class TeacherCache:
    """R rows and what the teacher says at their A target places each. It is what `training.loop` calls examples.

    top_ids: [R,A,K] int32, student ids, likeliest first. top_logprobs: [R,A,K] float16, natural logarithms.
    tail: [R,A] float32, probability of all other tokens together. hidden: [R,A,D] float16, after the final norm.
    streams: [R,A,n,D] float16, what enters the layers that `taps` name, scaled to a mean square of 1; or None.
    relations: [R,A,r,A] float16, probabilities of the last layer's relations (`training.taps`); or None.
    layers: of the teacher.
    """

    packed: Packed
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    tail: np.ndarray
    hidden: np.ndarray
    streams: np.ndarray | None = None
    relations: np.ndarray | None = None
    taps: Taps = field(default_factory=Taps)
    layers: int = 0

    def take(self, index: np.ndarray) -> tuple[Batch, Targets]:
        batch = self.packed.take(index)
        teacher = {name: array[index] for name, array in self.arrays().items()}
        return batch, Targets(batch.targets, batch.weights, **teacher)

    def arrays(self) -> dict[str, np.ndarray]:
        """What the teacher said, by name; what it was not asked is left out."""
        named = {name: getattr(self, name) for name in (*TEACHER_ARRAYS, *OPTIONAL_ARRAYS)}
        return {name: array for name, array in named.items() if array is not None}


def ask_teacher(
    teacher: Decoder, teacher_ids: np.ndarray, packed: Packed, k: int, rows: int, taps: Taps | None = None
) -> TeacherCache:
    """Run the teacher over all rows, `rows` at a time.

    Args:
        teacher_ids: [V] the teacher's id of each student id. packed: rows of student ids. k: tokens kept per place.
        taps: what it is asked beside its likeliest tokens.

    Raises:
        UserError: k exceeds the student's vocabulary, or a layer that the teacher does not have.
    """
    taps, layers = taps or Taps(), len(teacher.layers)
    if not 1 <= k <= len(teacher_ids):
        raise UserError(f"teacher_cache.k: {k} is not within the student's vocabulary of {len(teacher_ids)}")
    if outside := [layer for layer in taps.streams if not 0 <= layer <= layers]:
        raise UserError(f"teacher_cache.streams: {outside[0]} is not within the teacher's {layers} layers")
    parts = []
    for start in tqdm(range(0, len(packed), rows), desc="teacher", unit="batch", disable=None):
        index = np.minimum(np.arange(start, start + rows), len(packed) - 1)  # the last batch repeats its last row
        parts.append(_answers(teacher, teacher_ids, packed.take(index), k, taps))
    columns = {name: np.concatenate([part[name] for part in parts])[: len(packed)] for name in parts[0]}
    return TeacherCache(packed, **columns, taps=taps, layers=layers)


def mix(own: TeacherCache, other: TeacherCache, share: float, seed: list[int]) -> TeacherCache:
    """All rows of `own` and so many drawn from `other` that `own` is `share` of them (as far as they reach).

    Both have rows of one length with as many places, and were asked the same.
    """
    count = min(round(len(own.packed) * (1 - share) / share), len(other.packed))
    index = np.sort(np.random.default_rng(seed).permutation(len(other.packed))[:count])
    parts = (own.arrays(), {name: array[index] for name, array in other.arrays().items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = [np.concatenate(pair) for pair in zip(own.packed.rows, other.packed.take(index), strict=True)]
    samples = int(rows[Batch._fields.index("segments")].max(axis=1, initial=0).sum())
    return TeacherCache(Packed(Batch(*rows), samples, 0), **joined, taps=own.taps, layers=own.layers)


def save_cache(folder: str | Path, cache: TeacherCache, digests: dict[str, str]) -> None:
    """Write a cache and its header. `digests` name what it was made from (teacher, tokenizer, data)."""
    arrays = cache.packed.rows._asdict() | cache.arrays()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / WEIGHTS_FILE)
        facts = {"version": VERSION, "k": cache.top_ids.shape[-1], "samples": cache.packed.samples}
        counts = {"dropped": cache.packed.dropped, "tokens": cache.packed.tokens, "targets": cache.packed.targets}
        asked = {"layers": cache.layers, "streams": cache.taps.streams, "relation_heads": cache.taps.relation_heads}
        file = {"sha256": sha256_file(temporary / WEIGHTS_FILE)}
        write_json(temporary / HEADER_FILE, facts | counts | asked | file | {"digests": digests})


def load_cache(folder: str | Path, digests: dict[str, str]) -> TeacherCache:
    """Read a cache that was made from what `digests` names; digests not given are not compared.

    Raises:
        UserError: another version or digest, or a damaged file.
    """
    folder = Path(folder)
    header = read_json(folder / HEADER_FILE)
    if header.get("version") not in READABLE:
        raise UserError(f"{folder}: teacher cache of version {header.get('version')}, this code reads {READABLE}")
    for name, wanted in digests.items():
        if (found := header["digests"].get(name)) != wanted:
            raise UserError(f"{folder}: teacher cache of another {name} (digest {found}, not {wanted}); make it again")
    if sha256_file(folder / WEIGHTS_FILE) != header["sha256"]:
        raise UserError(f"{folder / WEIGHTS_FILE}: not the file that {HEADER_FILE} describes; make the cache again")
    try:
        arrays = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: damaged safetensors file ({error})") from None
    rows = Batch(*(arrays.pop(name) for name in Batch._fields))
    taps = Taps(tuple(header.get("streams", ())), header.get("relation_heads", 0))
    packed = Packed(rows, header["samples"], header["dropped"])
    return TeacherCache(packed, **arrays, taps=taps, layers=header.get("layers", 0))


def data_digest(packed: Packed) -> str:
    """Names the rows."""
    return digest({name: array.tolist() for name, array in packed.rows._asdict().items()})


TEACHER_ARRAYS = ("top_ids", "top_logprobs", "tail", "hidden")
OPTIONAL_ARRAYS = ("streams", "relations")


def _answers(teacher: Decoder, teacher_ids: np.ndarray, batch: Batch, k: int, taps: Taps) -> dict[str, np.ndarray]:
    mapped = batch._replace(tokens=teacher_ids[batch.tokens].astype(np.int32))
    x, place = enter(teacher, mapped)
    wanted, streams, before = set(taps.streams), {0: x}, x
    for number, after in enumerate(through(teacher.layers, x, place), 1):
        if number in wanted:
            streams[number] = after
        before, x = x, after
    hidden, logits = leave(teacher, x, mapped)
    top_ids, top, tail = (np.asarray(part) for part in _top(logits, jnp.asarray(teacher_ids), k))
    out: dict[str, np.ndarray] = {"top_ids": top_ids.astype(np.int32), "top_logprobs": top.astype(np.float16)}
    out |= {"tail": tail, "hidden": np.asarray(hidden, np.float16)}
    if taps.streams:
        chosen = [_unit(at_places(streams[number], mapped)) for number in taps.streams]
        out["streams"] = np.stack(chosen, axis=2).astype(np.float16)
    if taps.relation_heads:
        related = relations(teacher.layers[-1], at_places(before, mapped), mapped, taps.relation_heads)
        out["relations"] = np.exp(np.asarray(related)).astype(np.float16)
    return out


def _unit(x: jax.Array) -> np.ndarray:
    """Scaled to a mean square of 1 over the last axis: a stream may exceed float16's range."""
    return np.asarray(x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-12))


def _top(logits: jax.Array, teacher_ids: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Top-k student ids, their log-probabilities renormalised over the student's vocabulary, and the rest's mass."""
    logprobs = jax.nn.log_softmax(logits[..., teacher_ids], axis=-1)
    top, ids = jax.lax.top_k(logprobs, k)
    return ids, top, jnp.maximum(1.0 - jnp.exp(top).sum(-1), 0.0)
