"""`keras.distribution.DataParallel`, in a process of its own, as JAX counts its devices once."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("data_parallel.py")


@pytest.mark.slow
def test_two_devices_equal_one_under_jax():
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("equal") == 2
