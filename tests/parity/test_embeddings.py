"""The sentence encoder against an independent implementation, on the published weights, in JAX and in ONNX Runtime."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT
from tradewind.encoder import load_encoder
from tradewind.encoder.contract import Encoder
from tradewind.encoder.folder import read_published, write_folder
from tradewind.encoder.jax import JaxEncoder
from tradewind.encoder.model import to_model
from tradewind.errors import UserError
from tradewind.model.weights import weights_digest

HERE = Path(__file__).parent
COSINE = 0.999
MAX_DELTA = {"jax": 1e-5, "fp32": 1e-5, "int8": 1e-2}
"""float32 sums in another order, through 6 layers: some 1e-7 is seen; of int8 what rounding leaves."""


@pytest.fixture(scope="module")
def published():
    try:
        from tradewind.data import fetch

        fetch(ROOT / "data", ROOT / "conf" / "data")
    except UserError as error:
        pytest.skip(f"needs the encoder's weights (`make data`): {error}")
    return read_published(ROOT / "data" / "encoder")


@pytest.fixture(scope="module")
def golden(published):
    with np.load(HERE / "embeddings.npz") as stored:
        held = dict(stored)
    assert str(held["digest"]) == weights_digest(published[1]), "the file was made of other weights"
    return held


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return json.loads((HERE / "texts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["jax", "fp32", "int8"])
def encoder(request, published, tmp_path_factory) -> tuple[str, Encoder]:
    config, flat, tokenizer = published
    if request.param == "jax":
        return "jax", JaxEncoder(to_model(config, flat), tokenizer, "published")
    folder = tmp_path_factory.mktemp("encoder") / "made"
    write_folder(folder, "published", config, flat, tokenizer, request.param)
    return request.param, load_encoder(folder, 2)


def test_vectors(encoder, golden, texts, record_property) -> None:
    name, one = encoder
    vectors = one.embed(texts)
    delta, cosine = np.abs(vectors - golden["vectors"]).max(), (vectors * golden["vectors"]).sum(1).min()
    record_property("max_delta", float(delta))
    record_property("min_cosine", float(cosine))
    print(f"{name}: largest difference {delta:.2e}, smallest cosine {cosine:.7f}")
    assert cosine >= COSINE and delta <= MAX_DELTA[name]


def test_the_tokens_are_what_our_tokenizer_makes(published, golden, texts) -> None:
    ends = np.cumsum(golden["lengths"])[:-1]
    assert published[2].encode(texts) == [list(map(int, part)) for part in np.split(golden["tokens"], ends)]
