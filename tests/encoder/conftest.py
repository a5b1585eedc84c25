"""A small encoder with random weights, in every precision."""

from pathlib import Path

import pytest

from tradewind.encoder import load_encoder
from tradewind.encoder.folder import RandomEncoder, random_encoder, write_folder
from tradewind.encoder.ort import OrtEncoder

SHAPE = RandomEncoder(hidden_size=64, num_layers=2, num_heads=4, mlp_size=128)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {precision: tmp_path_factory.mktemp("encoder") / precision for precision in ("fp32", "int8")}
    for precision, folder in made.items():
        write_folder(folder, "tiny", *random_encoder(SHAPE, seed=0), precision)
    return made


@pytest.fixture(scope="session", params=["fp32", "int8"])
def ort(request, folders) -> OrtEncoder:
    encoder = load_encoder(folders[request.param], threads=1)
    assert isinstance(encoder, OrtEncoder)
    return encoder
