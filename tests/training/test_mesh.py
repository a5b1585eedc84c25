import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
ENVIRONMENT = os.environ | EIGHT | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
SHAPES = ("2,2,2,0", "8,1,1,0", "2,2,2,1")  # data, fsdp, tensor, whether LoRA


@pytest.fixture(scope="module")
def curves():
    """Loss curves by shape, of one process that sees eight devices."""
    command = [sys.executable, "-m", "tests.training.worker", "mesh", "1,1,1,0", "1,1,1,1", *SHAPES]
    answer = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return {shape: np.array(losses) for shape, losses in json.loads(answer.stdout).items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_curve_on_eight_devices_is_that_of_one(curves, shape):
    one = curves[f"1,1,1,{shape[-1]}"]
    assert len(one) >= 4 and one[-1] < one[0]
    np.testing.assert_allclose(curves[shape], one, atol=1e-4)
