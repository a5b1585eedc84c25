"""Stage `encoder`: the sentence encoder in ONNX, or a random one for the profile `nano`."""

from pathlib import Path

from tradewind import data
from tradewind.config import build, run, stage_params
from tradewind.encoder.folder import RandomEncoder, random_encoder, read_published, write_folder
from tradewind.errors import UserError

ENCODER = Path("artifacts/encoder")


def main() -> None:
    params = stage_params("encoder")
    if params["random"]:
        made = random_encoder(build(RandomEncoder, params["random"], "encoder.random"), params["seed"])
    elif params["source"]:
        if Path(params["source"]).is_relative_to("data"):
            data.verify()
        made = read_published(Path(params["source"]))
    else:
        raise UserError("encoder: set `source` (a folder as sentence-transformers publishes it) or `random` (a shape)")
    manifest = write_folder(ENCODER, params["name"], *made, params["precision"])
    print(f"encoder: {manifest.name}, {manifest.bytes / 1e6:.1f} MB of weights, digest {manifest.weights_digest}")


if __name__ == "__main__":
    run(main)
