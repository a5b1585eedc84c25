"""What the tests of resuming and of the mesh run in a process of its own.

python -m tests.training.worker resume CHECKPOINTS OUT [PAUSE]: train, write the weights; sleep PAUSE s a step.
python -m tests.training.worker mesh DATA,FSDP,TENSOR,LORA ...: train on each mesh, print the losses as JSON.
"""

import json
import sys
import time

import numpy as np
from flax import nnx

from tests.training.conftest import TINY, tiny_samples
from tradewind.model.decoder import Decoder
from tradewind.model.lora import LoRAConfig, adapt
from tradewind.model.weights import to_flat
from tradewind.training.checkpoint import Checkpoints
from tradewind.training.data import pack
from tradewind.training.loop import OptimizerConfig, PackedExamples, TrainConfig, TrainResult, train
from tradewind.training.losses import CrossEntropy
from tradewind.training.mesh import MeshConfig


class Slow(PackedExamples):
    """Examples that take their time, so that a test can kill the process between two of them."""

    pause = 0.0

    def take(self, index):
        time.sleep(self.pause)
        return super().take(index)


def run(
    model: Decoder,
    mesh: MeshConfig,
    checkpoints: Checkpoints | None = None,
    lora: bool = False,
    products: str = "default",
) -> TrainResult:
    if lora:
        adapt(model, LoRAConfig(2, 4.0), nnx.Rngs(1))
    config = TrainConfig(
        1200, 8, OptimizerConfig(1e-2, weight_decay=0.1), checkpoint_every=2, mesh=mesh, matmul_precision=products
    )
    examples = Slow(pack(tiny_samples(40), 24))
    return train(
        model, examples, CrossEntropy(), config, trainable=nnx.LoRAParam if lora else nnx.Param, checkpoints=checkpoints
    )


def mesh_losses(data: str, fsdp: str, tensor: str, trained: str, products: str) -> list[float]:
    mesh = MeshConfig(int(data), int(fsdp), int(tensor))
    result = run(Decoder(TINY, rngs=nnx.Rngs(0)), mesh, lora=trained == "lora", products=products)
    return [entry["loss"] for entry in result.log]


def main(mode: str, *arguments: str) -> None:
    if mode == "mesh":
        print(json.dumps({shape: mesh_losses(*shape.split(",")) for shape in arguments}))
        return
    model = Decoder(TINY, rngs=nnx.Rngs(0))
    folder, out, *pause = arguments
    Slow.pause = float(pause[0]) if pause else 0.0
    result = run(model, MeshConfig(), Checkpoints(folder))
    np.savez(out, log=json.dumps(result.log), **to_flat(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
