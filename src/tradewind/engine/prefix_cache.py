"""Prompts that were prefilled, and answers that followed them, kept so that a shared beginning is not run twice.

A radix tree over token ids (as SGLang's RadixAttention, Zheng et al. 2024), one per salt. The life of an entry:
1. `insert` puts a prefix of the engine at a leaf. Entries that it extends go: their tokens are its own first ones.
2. `find` walks a prompt down the tree as far as it goes; any leaf below has those tokens, and `Prefix.cut` shares its
   memory. Reuse is by the token, not by blocks: rows are contiguous, so a block would save nothing.
3. The least recently used leaf goes when the bytes exceed the budget. A prefix in use elsewhere lives on until it is
   let go of there.

A cut is never stored, so the bytes of a row are counted once. Entries that branch each hold the shared part in a row of
their own. Not covered: sharing rows between branches, disk, other processes. Used by the engine's thread only.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from tradewind.engine.contract import Prefix
from tradewind.engine.requests import Request

LEAST = 16
"""Tokens that a hit must save: copying a prefix costs about as much as running a few."""
ANSWER_SHARE = 16
"""See `worth_a_copy`."""

Tokens = tuple[int, ...]


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
    (vLLM's `prefix_cache_queries` and `prefix_cache_hits`). nbytes: kept now.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.queries = self.hits = self.nbytes = 0
        self._roots: dict[Hashable, _Node] = {}
        self._salts: dict[_Node, Hashable] = {}
        self._used: OrderedDict[_Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def find(self, salt: Hashable, prompt: Tokens) -> Prefix | None:
        """The longest known beginning of the prompt, short of its last token, which must be run to give logits."""
        if not self.budget:
            return None
        self.queries += len(prompt)
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
        self.hits += length
        return node.prefix.cut(length)

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
            self._remove(next(iter(self._used)))

    def clear(self) -> None:
        self._roots.clear()
        self._salts.clear()
        self._used.clear()
        self.nbytes = 0

    def _forget(self, leaf: _Node) -> None:
        assert leaf.prefix is not None
        self.nbytes -= leaf.prefix.nbytes
        leaf.prefix = None
        del self._used[leaf], self._salts[leaf]

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
