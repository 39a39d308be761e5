"""Under JAX on two devices: the weights and logs that one device gives, for some networks."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.distribution import cases  # noqa: E402

CASES = [
    {"network": "CrossStitchNetwork", "weighting": "UncertaintyWeighting"},
    {"network": "HardSharing", "weighting": "PCGrad", "accumulate": 2},
]

devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
for case in CASES:
    keras.distribution.set_distribution(None)
    expected = cases.train(**case)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    found = cases.train(**case)
    for (name, value), reference in zip(found.items(), expected.values(), strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=2e-6, err_msg=name)
    print("equal", case, flush=True)
