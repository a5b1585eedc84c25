"""A real variant behind the API: the client reads what the bare engine and tokenizer give, alone and in a crowd."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compression.tiny import tiny_variant
from tests.serving.conftest import serving
from tradewind.engine import Engine, load_engine
from tradewind.engine.text import Tokenizer
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import load, resolve

NEW = 12


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    folder = tmp_path_factory.mktemp("variants")
    tiny_variant(folder / "base-int8", "int8")
    return ServeSettings(model="base-int8", variants=str(folder), engine="ort", slots=3, max_len=96, threads=1)


def alone(engine: Engine, tokenizer: Tokenizer, text: str) -> str:
    """Greedy, by the engine's own calls."""
    prefix = engine.prefill(tokenizer.encode(text))
    assert prefix.logits is not None
    tokens = [int(prefix.logits.argmax())]
    engine.insert(prefix, 0)
    while tokens[-1] not in tokenizer.eos_token_ids and len(tokens) < NEW:
        tokens.append(int(engine.step({0: tokens[-1:]})[0][-1].argmax()))
    engine.release(0)
    special = set(tokenizer.special_ids)
    return b"".join(tokenizer.token_bytes(token) for token in tokens if token not in special).decode("utf-8", "ignore")


def test_through_the_api_alone_and_in_a_crowd(settings: ServeSettings) -> None:
    name, engine, tokenizer = load(settings)
    assert name == "base-int8"
    texts = [f"{'the array ' * (place % 4)}is returned {place}" for place in range(9)]
    want = [alone(engine, tokenizer, text) for text in texts]
    with serving(engine, settings, tokenizer=tokenizer, model=name) as served, served.client() as client:

        def ask(text: str) -> str:
            reply = client.completions.create(model=name, prompt=text, temperature=0, max_tokens=NEW, stream=True)
            return "".join(chunk.choices[0].text for chunk in reply)

        # Bytes that are no text are replaced in the stream; what is text must be the same.
        assert [ask(text).replace("\ufffd", "") for text in texts] == want
        with ThreadPoolExecutor(9) as pool:
            assert [text.replace("\ufffd", "") for text in pool.map(ask, texts)] == want
        (model,) = client.models.list().data
        assert model.id == name


def test_chat_goes_through_the_template(settings: ServeSettings) -> None:
    name, engine, tokenizer = load(settings)
    messages = [{"role": "user", "content": "the array"}]
    with serving(engine, settings, tokenizer=tokenizer, model=name) as served, served.client() as client:
        reply = client.chat.completions.create(model=name, messages=messages, max_tokens=3)  # type: ignore[arg-type]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(tokenizer.chat(messages))


def test_unknown_variants_name_the_choices(settings: ServeSettings) -> None:
    with pytest.raises(UserError, match=r"unknown variant 'base-int2' \(choices: base-int8\)"):
        resolve("base-int2", settings.variants)
    with pytest.raises(UserError, match="no variant at"):
        load_engine(Path("nowhere"), "ort")
    with pytest.raises(UserError, match=r"choices: ort, jax, mock"):
        load_engine(None, "cuda")
