"""Vocabulary trimming: a byte-level BPE tokenizer cut down to the tokens of a domain.

What is kept is closed: with a token stay the parts it is merged from, all single bytes and all special tokens. Then the
trimmed tokenizer still encodes every text that the full one encodes, and gives the very same tokens wherever the full
one uses kept tokens only. (BPE never undoes a merge, so every merge on the way to a kept token is kept, in its order;
removing others takes nothing away from it.) It does not choose the domain: the caller brings the counts.
"""

import json
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as Backend

from tradewind.errors import UserError
from tradewind.model.tokenizer import Tokenizer


def trim(tokenizer: Tokenizer, keep: Iterable[int]) -> tuple[Tokenizer, list[int]]:
    """The tokenizer of the closure of `keep`, and for each of its ids the id in the full vocabulary (ascending).

    Raises:
        UserError: an id outside the vocabulary.
    """
    teacher_ids = sorted(closure(tokenizer, keep))
    tokens = tokenizer.tokens
    student = {tokens[old]: new for new, old in enumerate(teacher_ids)}
    content = json.loads(tokenizer.backend.to_str())
    content["model"]["vocab"] = student
    content["model"]["merges"] = [
        [a, b] for a, b in tokenizer.merges if a in student and b in student and a + b in student
    ]
    for added in content["added_tokens"]:
        added["id"] = student[added["content"]]
    return Tokenizer(Backend.from_str(json.dumps(content)), tokenizer.chat_template, tokenizer.roles), teacher_ids


def closure(tokenizer: Tokenizer, keep: Iterable[int]) -> set[int]:
    """`keep`, the parts that its tokens are merged from, all single bytes and all special tokens."""
    parts = _parts(tokenizer)
    special = set(tokenizer.special_ids)
    single = {i for i, token in enumerate(tokenizer.tokens) if len(token) == 1}
    waiting, kept = [*keep], special | single
    if outside := [i for i in waiting if not 0 <= i < tokenizer.vocab_size]:
        raise UserError(f"vocabulary: token {outside[0]} is outside the vocabulary of {tokenizer.vocab_size}")
    while waiting:
        token = waiting.pop()
        kept.add(token)
        waiting += [part for part in parts.get(token, ()) if part not in kept]
    return kept


def frequent(tokenizer: Tokenizer, counts: Mapping[int, int], size: int) -> set[int]:
    """The closed set of at most `size` tokens that is filled in descending order of count (ties: lower id first).

    Raises:
        UserError: `size` does not even hold the bytes and special tokens.
    """
    parts, kept = _parts(tokenizer), closure(tokenizer, ())
    if len(kept) > size:
        raise UserError(f"vocabulary: bytes and special tokens alone are {len(kept)}, more than {size}")
    for token in sorted((i for i, n in counts.items() if n > 0), key=lambda i: (-counts[i], i)):
        added, waiting = set(), [token]
        while waiting:
            part = waiting.pop()
            if part not in kept and part not in added:
                added.add(part)
                waiting += parts.get(part, ())
        if len(kept) + len(added) <= size:
            kept |= added
    return kept


def _parts(tokenizer: Tokenizer) -> dict[int, list[int]]:
    """Token -> the tokens it is merged from (of every merge that gives it)."""
    ids = {token: i for i, token in enumerate(tokenizer.tokens)}
    parts: dict[int, list[int]] = {}
    for left, right in tokenizer.merges:
        parts.setdefault(ids[left + right], []).extend((ids[left], ids[right]))
    return parts
