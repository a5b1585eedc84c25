"""Prompts that were prefilled, and answers that followed them, kept so that a shared beginning is not run twice.

A radix tree over token ids (as SGLang's RadixAttention, Zheng et al. 2024), one per salt. The life of an entry:
1. `insert` puts a prefix of the engine at a leaf. Entries that it extends go: their tokens are its own first ones.
2. `find` walks a prompt down the tree as far as it goes; any leaf below has those tokens, and `Prefix.cut` shares its
   memory. Reuse is by the token, not by blocks: rows are contiguous, so a block would save nothing.
3. The least recently used leaf goes when the bytes exceed the budget: to the disk, where there is one
   (`tradewind.engine.prefix_disk`), which is looked through where memory knows less. A prefix in use elsewhere lives on
   until it is let go of there.

A cut is never stored, so the bytes of a row are counted once. Entries that branch each hold the shared part in a row of
their own. Not covered: sharing rows between branches, other processes. Used by the engine's thread only.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from tradewind.engine.contract import Prefix
from tradewind.engine.requests import Request

if TYPE_CHECKING:
    from tradewind.engine.prefix_disk import PrefixDisk

LEAST = 16
"""Tokens that a hit must save: copying a prefix costs about as much as running a few."""
ANSWER_SHARE = 16
"""See `worth_a_copy`."""

Tokens = tuple[int, ...]
Left = Callable[[Prefix], None]
"""Told of an entry that is gone: evicted, removed, or a longer one took its place."""


def salt(request: Request) -> tuple[str, str | None, str | None]:
    """Whose entries a request may find: those of its tenant with the same salt and adapter."""
    return request.tenant, request.cache_salt, request.adapter


def worth_a_copy(sampled: int, held: int) -> bool:
    """Whether an answer of `sampled` tokens in a row of `held` is kept for the next turn of its chat.

    `fork` copies the row: measured at 0.8 to 1.3 ms a hundred tokens of the 135M base in float32, where running a
    hundred tokens takes about 100 ms. So at a sixteenth of the row it pays where one in five is followed up.
    """
    return sampled >= LEAST and ANSWER_SHARE * sampled >= held


class _Node:
    """`tokens` lead here from the parent. A leaf holds a prefix; an inner node has two children at least."""

    __slots__ = ("children", "parent", "prefix", "tokens")

    def __init__(self, tokens: Tokens, parent: "_Node | None") -> None:
        self.tokens, self.parent = tokens, parent
        self.prefix: Prefix | None = None
        self.children: dict[int, _Node] = {}
        if parent is not None:
            parent.children[tokens[0]] = self


class PrefixCache:
    """budget: bytes of keys and values kept at most; 0 keeps nothing. queries, hits: prompt tokens asked for and found
    here (vLLM's `prefix_cache_queries` and `prefix_cache_hits`), what the disk found not among them. lookups: prompts asked
    for. nbytes: kept now. evicted, evicted_bytes: entries that the budget took. disk: where those go, if anywhere.
    """

    def __init__(self, budget: int, left: Left | None = None) -> None:
        self.budget = budget
        self.disk: PrefixDisk | None = None
        self.lookups = self.queries = self.hits = self.nbytes = self.evicted = self.evicted_bytes = 0
        self._left = left
        self._roots: dict[Hashable, _Node] = {}
        self._salts: dict[_Node, Hashable] = {}
        self._used: OrderedDict[_Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    @property
    def counts(self) -> dict[str, Any]:
        """What a scheduler's snapshot says of it, by field."""
        disk = self.disk
        here = {"queries": self.queries, "hits": self.hits, "bytes": self.nbytes, "lookups": self.lookups,
                "entries": len(self), "evicted": self.evicted, "evicted_bytes": self.evicted_bytes}  # fmt: skip
        there = disk.counts if disk is not None else {}
        return {f"prefix_{name}": value for name, value in (here | there).items()}

    def find(self, salt: Hashable, prompt: Tokens) -> Prefix | None:
        """The longest known beginning of the prompt, short of its last token, which must be run to give logits."""
        if not self.budget:
            return None
        self.lookups += 1
        self.queries += len(prompt)
        known = self.longest(salt, prompt)
        length = known[0] if known is not None else 0
        self.hits += length
        if self.disk is not None and (stored := self.disk.find(salt, prompt, length)) is not None:
            tokens, prefix = stored
            self.insert(salt, tokens, prefix)
            return prefix.cut(_shared(tokens, prompt[: min(len(tokens), len(prompt) - 1)]))
        return known[1].cut(length) if known is not None else None

    def longest(self, salt: Hashable, prompt: Tokens) -> tuple[int, Prefix] | None:
        """How much of the prompt is known, short of its last token, and the entry that begins so: it is used now."""
        root = self._roots.get(salt)
        if root is None:
            return None
        node, length, _ = _walk(root, prompt)
        length = min(length, len(prompt) - 1)
        if length < LEAST:
            return None
        while node.prefix is None:
            node = next(iter(node.children.values()))
        self._used.move_to_end(node)
        return length, node.prefix

    def holds(self, salt: Hashable, tokens: Tokens) -> bool:
        """Whether an entry begins with these tokens."""
        root = self._roots.get(salt)
        return root is not None and _walk(root, tokens)[1] == len(tokens)

    def insert(self, salt: Hashable, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep a prefix, which holds `tokens`. Known ones, short ones and those beyond the whole budget are not."""
        tokens = tuple(tokens)
        if not self.budget or len(tokens) < LEAST or prefix.nbytes > self.budget:
            return
        kept = prefix.cut(prefix.length)  # without its logits
        root = self._roots.setdefault(salt, _Node((), None))
        node, length, inside = _walk(root, tokens)
        if length == len(tokens):
            return
        if node.prefix is not None and inside == len(node.tokens):
            self._forget(node)  # the new entry begins with it, and takes its place
            leaf, leaf.tokens = node, node.tokens + tokens[length:]
        else:
            leaf = _Node(tokens[length:], _split(node, inside) if inside < len(node.tokens) else node)
        leaf.prefix = kept
        self._salts[leaf] = salt
        self._used[leaf] = None
        self.nbytes += prefix.nbytes
        while self.nbytes > self.budget:
            self._evict(next(iter(self._used)))

    def remove(self, prefix: Prefix) -> None:
        """Drop the entry that `longest` gave."""
        self._remove(next(leaf for leaf in self._used if leaf.prefix is prefix))

    def to_disk(self) -> None:
        """Have all entries written, the least recently used first, and wait for it."""
        if self.disk is not None:
            for leaf in self._used:
                assert leaf.prefix is not None
                self.disk.keep(self._salts[leaf], _tokens(leaf), leaf.prefix, wait=True)
            self.disk.close()

    def clear(self) -> None:
        self._roots.clear()
        self._salts.clear()
        self._used.clear()
        self.nbytes = 0

    def _evict(self, leaf: _Node) -> None:
        assert leaf.prefix is not None
        self.evicted += 1
        self.evicted_bytes += leaf.prefix.nbytes
        if self.disk is not None:
            self.disk.keep(self._salts[leaf], _tokens(leaf), leaf.prefix)
        self._remove(leaf)

    def _forget(self, leaf: _Node) -> None:
        assert leaf.prefix is not None
        prefix, leaf.prefix = leaf.prefix, None
        self.nbytes -= prefix.nbytes
        del self._used[leaf], self._salts[leaf]
        if self._left is not None:
            self._left(prefix)

    def _remove(self, leaf: _Node) -> None:
        salt = self._salts[leaf]
        self._forget(leaf)
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.tokens[0]]
        if parent.parent is None:
            if not parent.children:
                del self._roots[salt]
        elif len(parent.children) == 1:
            _join(parent)


def _tokens(leaf: _Node) -> Tokens:
    """All that lead to it."""
    parts: list[Tokens] = []
    node: _Node | None = leaf
    while node is not None:
        parts.append(node.tokens)
        node = node.parent
    return tuple(token for part in reversed(parts) for token in part)


def _walk(root: _Node, tokens: Tokens) -> tuple[_Node, int, int]:
    """The node on whose edge the walk ends, the tokens matched in all, and those matched on that edge."""
    node, length, inside = root, 0, 0
    while inside == len(node.tokens) and length < len(tokens) and tokens[length] in node.children:
        node = node.children[tokens[length]]
        inside = _shared(node.tokens, tokens[length : length + len(node.tokens)])
        length += inside
    return node, length, inside


def _shared(one: Tokens, other: Tokens) -> int:
    if one == other:
        return len(one)
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def _split(node: _Node, inside: int) -> _Node:
    """A node of its own for the first `inside` tokens of this node's edge."""
    assert node.parent is not None
    upper = _Node(node.tokens[:inside], node.parent)
    node.tokens, node.parent = node.tokens[inside:], upper
    upper.children[node.tokens[0]] = node
    return upper


def _join(node: _Node) -> None:
    """Put a node and its only child together again."""
    (child,) = node.children.values()
    assert node.parent is not None
    child.tokens, child.parent = node.tokens + child.tokens, node.parent
    node.parent.children[child.tokens[0]] = child
