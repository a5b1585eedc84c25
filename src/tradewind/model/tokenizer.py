"""The byte-level BPE tokenizer of a model, with its chat template.

Encoding is the `tokenizers` library's; templates are rendered by Jinja's sandbox as Hugging Face renders
them (no clock, no tools). Read from a Hugging Face folder or a GGUF file's metadata, or trained.
It does not know prompts or sampling.
Not covered: tokenizers other than byte-level BPE; templates that need tools or the date.
"""

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.trainers import BpeTrainer

from tradewind.errors import UserError
from tradewind.files import read_json, write_json, write_text

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
)  # fmt: skip
"""The special tokens of SmolLM2 in the order of their ids, for tokenizers trained here."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as SmolLM2 has it, less its system message for conversations that have none; for tokenizers trained here."""

ROLES = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|im_end|>",
}
"""What the special tokens are for, where nothing else says so (SmolLM2's choice)."""

Message = Mapping[str, str]


class Tokenizer:
    """Text to ids and back.

    Args:
        backend: a byte-level BPE of the `tokenizers` library, special tokens added.
        chat_template: Jinja source over `messages` and `add_generation_prompt`.
        roles: the token for each of `bos_token`, `eos_token`, `unk_token`, `pad_token`.
    """

    def __init__(self, backend: Backend, chat_template: str, roles: Mapping[str, str] = ROLES) -> None:
        self.backend, self.chat_template, self.roles = backend, chat_template, dict(roles)
        self._template = _compile(chat_template)
        for role, token in self.roles.items():
            if backend.token_to_id(token) is None:
                raise UserError(f"tokenizer: {role} {token!r} is not in the vocabulary")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """From `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` (or the configuration)."""
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json")
        backend = _backend(folder / "tokenizer.json")
        template = folder / "chat_template.jinja"
        source = template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template")
        if not isinstance(source, str):
            raise UserError(f"{folder}: no chat template (chat_template.jinja)")
        roles = {role: _content(config.get(role) or default) for role, default in ROLES.items()}
        if not config.get("pad_token"):
            roles["pad_token"] = roles["eos_token"]
        return cls(backend, source, roles)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], source: str | Path = "GGUF file") -> "Tokenizer":
        """From the metadata of a GGUF file (see `load_gguf`). Raises UserError for another kind of tokenizer."""
        for key, value in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
            if metadata.get(key) != value:
                raise UserError(f"{source}: {key} is {metadata.get(key)!r}, only {value!r} is read")
        tokens, kinds = _strings(metadata, "tokenizer.ggml.tokens", source), metadata.get("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ", 1)) for m in _strings(metadata, "tokenizer.ggml.merges", source)]
        specials = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]  # type: ignore[call-overload]
        ids = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        roles = {}
        for role, word in ids.items():
            index = metadata.get(f"tokenizer.ggml.{word}_token_id")
            roles[role] = tokens[index] if isinstance(index, int) else ROLES[role]
        template = metadata.get("tokenizer.chat_template")
        if not isinstance(template, str):
            raise UserError(f"{source}: no chat template in the metadata")
        return cls(build_backend({token: i for i, token in enumerate(tokens)}, merges, specials), template, roles)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A small tokenizer with all 256 bytes, `SPECIALS` and `CHAT_TEMPLATE`. The same texts give the same.

        Texts with little variety give fewer tokens than `vocab_size`.
        """
        if vocab_size < 256 + len(SPECIALS):
            raise UserError(f"tokenizer: vocab_size must be at least {256 + len(SPECIALS)}, not {vocab_size}")
        backend = build_backend({}, [], [])
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, CHAT_TEMPLATE)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files of a Hugging Face folder, which is made if it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True) + "\n")
        fixed = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_json(folder / "tokenizer_config.json", {**self.roles, **fixed})
        write_text(folder / "chat_template.jinja", self.chat_template)
        ids = {"bos_token_id": self.bos_token_id, "pad_token_id": self.pad_token_id}
        write_json(folder / "generation_config.json", {**ids, "eos_token_id": self.eos_token_ids})

    def encode(self, text: str, specials: bool = True) -> list[int]:
        """Ids of a text. With `specials`, the text of a special token becomes that token; without, plain characters."""
        return (self.backend if specials else self._plain).encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], specials: bool = False) -> str:
        """Text of ids; special tokens are left out unless asked for, broken UTF-8 becomes U+FFFD."""
        special = set() if specials else self._special_ids
        return b"".join(self.token_bytes(i) for i in ids if i not in special).decode("utf-8", "replace")

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The template's text of a conversation. Raises UserError where the template refuses it."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self.roles,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"chat template: {error}") from None

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation. The text of a special token inside a message stays text: no message can end itself."""
        ids, _ = self._encode_chat(messages, add_generation_prompt)
        return ids

    def chat_with_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation, and 1 for each token that an assistant wrote: its content and the end token."""
        ids, spans = self._encode_chat(messages, add_generation_prompt=False)
        text, contents = self._rendered(messages, add_generation_prompt=False)
        lefts, rights = [left for left, _ in spans], [right for _, right in spans]
        mask = [0] * len(ids)
        for message, (start, stop) in zip(messages, contents, strict=True):
            if message["role"] == "assistant":
                end = text.index(self.roles["eos_token"], stop) + len(self.roles["eos_token"])
                first, last = bisect_left(lefts, start), bisect_right(rights, end)
                mask[first:last] = [1] * (last - first)
        return ids, mask

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for (a special token: its name). Raises IndexError outside the vocabulary."""
        return self._bytes[token]

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @cached_property
    def tokens(self) -> list[str]:
        """Every token as the vocabulary spells it (bytes as printable characters), in the order of ids."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
            raise UserError("tokenizer: the ids of the vocabulary have gaps")
        return tokens

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that BPE merges, most urgent first."""
        return [(left, right) for left, right in json.loads(self.backend.to_str())["model"]["merges"]]

    @cached_property
    def special_ids(self) -> list[int]:
        """Ids of the special tokens, ascending."""
        return sorted(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @property
    def bos_token_id(self) -> int:
        return self._id("bos_token")

    @property
    def eos_token_id(self) -> int:
        return self._id("eos_token")

    @property
    def unk_token_id(self) -> int:
        return self._id("unk_token")

    @property
    def pad_token_id(self) -> int:
        return self._id("pad_token")

    @property
    def eos_token_ids(self) -> list[int]:
        """What ends a text: the end of a message first, then the end of a document."""
        document = self.backend.token_to_id("<|endoftext|>")
        return [self.eos_token_id] + [i for i in [document] if i is not None and i != self.eos_token_id]

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name vocabulary, merges and pre-tokenization."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()[:16]

    @property
    def template_digest(self) -> str:
        """16 hexadecimal digits that name the chat template."""
        return hashlib.sha256(self.chat_template.encode()).hexdigest()[:16]

    @cached_property
    def _plain(self) -> Backend:
        backend = Backend.from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special_ids)

    @cached_property
    def _bytes(self) -> list[bytes]:
        values = {character: value for value, character in enumerate(byte_characters())}
        special = self._special_ids
        return [t.encode() if i in special else bytes(values[c] for c in t) for i, t in enumerate(self.tokens)]

    def _id(self, role: str) -> int:
        index = self.backend.token_to_id(self.roles[role])
        assert index is not None  # checked when it was made
        return index

    def _encode_chat(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and their spans in the rendered text; contents that spell a special token are encoded apart, as text."""
        text, contents = self._rendered(messages, add_generation_prompt)
        names = [self.tokens[i] for i in self.special_ids]
        literal = [span for span in contents if any(name in text[slice(*span)] for name in names)]
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        done = 0
        for start, stop in [*literal, (len(text), len(text))]:
            for left, right, backend in ((done, start, self.backend), (start, stop, self._plain)):
                encoding = backend.encode(text[left:right], add_special_tokens=False)
                ids += encoding.ids
                spans += [(left + first, left + last) for first, last in encoding.offsets]
            done = stop
        return ids, spans

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text, and where in it each message's content lies: found by rendering marks in their place."""
        text = self.render(messages, add_generation_prompt)
        marks = [f"\uf8ff{i}\uf8ff" for i in range(len(messages))]
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        frame = re.split("\uf8ff[0-9]+\uf8ff", self.render(marked, add_generation_prompt))
        plain = [message["content"] for message in messages]
        for contents in (plain, [content.strip() for content in plain]):
            pieces = [part for pair in zip(frame, [*contents, ""], strict=False) for part in pair]
            if len(frame) == len(contents) + 1 and "".join(pieces) == text:
                ends = list(accumulate(map(len, pieces)))
                return text, list(zip(ends[0:-2:2], ends[1:-2:2], strict=True))
        raise UserError("chat template: it rewrites, reorders or leaves out the contents of messages")


def build_backend(vocabulary: dict[str, int], merges: Sequence[tuple[str, ...]], specials: Sequence[str]) -> Backend:
    """SmolLM2's tokenizer: digits one by one, GPT-2's splitting, byte-level BPE."""
    backend = Backend(BPE(vocabulary, list(merges)))  # type: ignore[arg-type]
    backend.pre_tokenizer = Steps([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend


def byte_characters() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    characters = dict(zip(printable, printable, strict=True)) | {value: 256 + n for n, value in enumerate(others)}
    return [chr(characters[value]) for value in range(256)]


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"chat template: {error}") from None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _backend(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"{path}: not a tokenizer ({error})") from None


def _content(token: object) -> str:
    return str(token["content"]) if isinstance(token, Mapping) else str(token)


def _strings(metadata: Mapping[str, object], key: str, source: str | Path) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise UserError(f"{source}: metadata {key!r} is missing")
    return [str(item) for item in value]
