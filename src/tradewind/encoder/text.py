"""The encoder's tokenizer (WordPiece, lower case): `tokenizer.json` as published, without its cutting and padding."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from tradewind.errors import UserError

FILE = "tokenizer.json"
PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"


class EncoderTokenizer:
    """Raises UserError where the tokens that frame a text are missing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()
        self.start, self.end, self.pad = (self._id(token) for token in (START, END, PAD))

    @classmethod
    def load(cls, path: Path) -> "EncoderTokenizer":
        try:
            return cls(Tokenizer.from_file(str(path)))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path}: not a readable tokenizer ({error})") from None

    @classmethod
    def of_characters(cls) -> "EncoderTokenizer":
        """One that knows printable ASCII, a token a character: for random weights."""
        signs = [chr(code) for code in range(33, 127)]
        words = [PAD, UNKNOWN, START, END, MASK, *signs, *(f"##{sign}" for sign in signs)]
        tokenizer = Tokenizer(WordPiece({word: place for place, word in enumerate(words)}, unk_token=UNKNOWN))
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = BertPreTokenizer()
        frame = [(START, words.index(START)), (END, words.index(END))]
        tokenizer.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=frame)
        tokenizer.add_special_tokens([PAD, UNKNOWN, START, END, MASK])
        return cls(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text between [CLS] and [SEP]."""
        return [one.ids for one in self._tokenizer.encode_batch(list(texts))]

    def frame(self, tokens: Sequence[int]) -> list[int]:
        """A text's own tokens, as `encode` gives them."""
        return [self.start, *tokens, self.end]

    def save(self, folder: Path) -> None:
        self._tokenizer.save(str(folder / FILE))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:16]

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"the encoder's tokenizer has no {token}")
        return int(found)
