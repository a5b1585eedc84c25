"""What a teacher says about rows of text, computed once: its likeliest tokens and hidden states at the target places.

The rows are on the student's tokenization; its ids map one to one into the teacher's, so the teacher runs on the mapped
ids and its distribution is renormalised over the student's vocabulary. On disk: `cache.safetensors` (the rows and the
teacher's arrays) and `header.json` (version, k, digests). A cache of another version or digest is refused.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from tradewind.compression.layerwise import enter, last, leave
from tradewind.errors import UserError
from tradewind.files import atomic_path, digest, read_json, sha256_file, write_json
from tradewind.model.decoder import Decoder
from tradewind.training.data import Batch, Packed
from tradewind.training.losses import Targets

VERSION = 1
WEIGHTS_FILE, HEADER_FILE = "cache.safetensors", "header.json"


@dataclass(frozen=True)
class TeacherCache:
    """R rows and what the teacher says at their A target places each. It is what `training.loop` calls examples.

    top_ids: [R,A,K] int32, student ids, likeliest first. top_logprobs: [R,A,K] float16, natural logarithms.
    tail: [R,A] float32, probability of all other tokens together. hidden: [R,A,D] float16, after the final norm.
    """

    packed: Packed
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    tail: np.ndarray
    hidden: np.ndarray

    def take(self, index: np.ndarray) -> tuple[Batch, Targets]:
        batch = self.packed.take(index)
        teacher = (self.top_ids, self.top_logprobs, self.tail, self.hidden)
        return batch, Targets(batch.targets, batch.weights, *(array[index] for array in teacher))


def ask_teacher(teacher: Decoder, teacher_ids: np.ndarray, packed: Packed, k: int, rows: int) -> TeacherCache:
    """Run the teacher over all rows, `rows` at a time.

    Args:
        teacher_ids: [V] the teacher's id of each student id. packed: rows of student ids. k: tokens kept per place.

    Raises:
        UserError: k exceeds the student's vocabulary.
    """
    if not 1 <= k <= len(teacher_ids):
        raise UserError(f"teacher_cache.k: {k} is not within the student's vocabulary of {len(teacher_ids)}")
    parts = []
    for start in tqdm(range(0, len(packed), rows), desc="teacher", unit="batch", disable=None):
        index = np.minimum(np.arange(start, start + rows), len(packed) - 1)  # the last batch repeats its last row
        parts.append(_answers(teacher, teacher_ids, packed.take(index), k))
    columns = (np.concatenate(column)[: len(packed)] for column in zip(*parts, strict=True))
    return TeacherCache(packed, *columns)


def save_cache(folder: str | Path, cache: TeacherCache, digests: dict[str, str]) -> None:
    """Write a cache and its header. `digests` name what it was made from (teacher, tokenizer, data)."""
    arrays = cache.packed.rows._asdict() | {name: getattr(cache, name) for name in TEACHER_ARRAYS}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / WEIGHTS_FILE)
        facts = {"version": VERSION, "k": cache.top_ids.shape[-1], "samples": cache.packed.samples}
        counts = {"dropped": cache.packed.dropped, "tokens": cache.packed.tokens, "targets": cache.packed.targets}
        file = {"sha256": sha256_file(temporary / WEIGHTS_FILE)}
        write_json(temporary / HEADER_FILE, facts | counts | file | {"digests": digests})


def load_cache(folder: str | Path, digests: dict[str, str]) -> TeacherCache:
    """Read a cache that was made from what `digests` names; digests not given are not compared.

    Raises:
        UserError: another version or digest, or a damaged file.
    """
    folder = Path(folder)
    header = read_json(folder / HEADER_FILE)
    if header.get("version") != VERSION:
        raise UserError(f"{folder}: teacher cache of version {header.get('version')}, this code reads {VERSION}")
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
    return TeacherCache(Packed(rows, header["samples"], header["dropped"]), **arrays)


def data_digest(packed: Packed) -> str:
    """Names the rows."""
    return digest({name: array.tolist() for name, array in packed.rows._asdict().items()})


TEACHER_ARRAYS = ("top_ids", "top_logprobs", "tail", "hidden")


def _answers(teacher: Decoder, teacher_ids: np.ndarray, batch: Batch, k: int) -> tuple[np.ndarray, ...]:
    mapped = batch._replace(tokens=teacher_ids[batch.tokens].astype(np.int32))
    x, place = enter(teacher, mapped)
    hidden, logits = leave(teacher, last(teacher.layers, x, place), mapped)
    top_ids, top, tail = (np.asarray(part) for part in _top(logits, jnp.asarray(teacher_ids), k))
    return top_ids.astype(np.int32), top.astype(np.float16), tail, np.asarray(hidden, np.float16)


def _top(logits: jax.Array, teacher_ids: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Top-k student ids, their log-probabilities renormalised over the student's vocabulary, and the rest's mass."""
    logprobs = jax.nn.log_softmax(logits[..., teacher_ids], axis=-1)
    top, ids = jax.lax.top_k(logprobs, k)
    return ids, top, jnp.maximum(1.0 - jnp.exp(top).sum(-1), 0.0)
