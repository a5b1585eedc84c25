import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
ENVIRONMENT = os.environ | EIGHT | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
SHAPES = (  # data, fsdp, tensor, what is trained, precision of products
    "2,2,2,full,default",
    "8,1,1,full,default",
    "2,2,2,lora,default",
    "2,2,2,full,bfloat16",
    "2,2,2,lora,bfloat16",
)
ONE = [f"1,1,1,{trained},{products}" for trained in ("full", "lora") for products in ("default", "bfloat16")]


@pytest.fixture(scope="module")
def curves():
    """Loss curves by shape, of one process that sees eight devices."""
    command = [sys.executable, "-m", "tests.training.worker", "mesh", *ONE, *SHAPES]
    answer = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return {shape: np.array(losses) for shape, losses in json.loads(answer.stdout).items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_curve_on_eight_devices_is_that_of_one(curves, shape):
    one = curves["1,1,1," + shape.split(",", 3)[3]]
    assert len(one) >= 4 and one[-1] < one[0]
    np.testing.assert_allclose(curves[shape], one, atol=3e-3 if shape.endswith("bfloat16") else 1e-4)
