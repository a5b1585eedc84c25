import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
ENVIRONMENT = os.environ | EIGHT | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def losses(data, fsdp, tensor, lora):
    command = [sys.executable, "-m", "tests.training.worker", "mesh", *map(str, (data, fsdp, tensor, lora))]
    answer = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return np.array(json.loads(answer.stdout))


@pytest.mark.parametrize(("shape", "lora"), [((2, 2, 2), 0), ((8, 1, 1), 0), ((2, 2, 2), 1)])
def test_the_loss_curve_on_eight_devices_is_that_of_one(shape, lora):
    one = losses(1, 1, 1, lora)
    assert len(one) > 5 and one[-1] < one[0]
    np.testing.assert_allclose(losses(*shape, lora), one, atol=1e-4)
