"""Runs that are killed at random points end with the weights of one that was left alone."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.distribution.processes import free_ports, started, tail, wait_for_all

JOB = Path(__file__).with_name("resuming.py")

pytestmark = pytest.mark.slow


def check_same(found, expected, logs_rtol=0.0):
    found, expected = dict(np.load(found)), dict(np.load(expected))
    assert list(found) == list(expected)
    for name, value in expected.items():
        if name.startswith("variable"):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], value, rtol=logs_rtol, err_msg=name)


def run_alone(folder, seed):
    command = [sys.executable, JOB, folder, str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    return int(result.stdout.split()[-1])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_one_process(seed, tmp_path):
    assert run_alone(tmp_path, seed) >= 2
    starts = {int(line) for line in (tmp_path / "killed" / "starts.txt").read_text().split()}
    assert len(starts) >= 3 and any(start % 12 for start in starts), starts  # else little is shown
    check_same(tmp_path / "killed.npz", tmp_path / "undisturbed.npz")
    assert not list((tmp_path / "killed" / "backups").glob(".*"))


def test_two_workers_of_which_one_is_killed(tmp_path):
    def start(folder, kill_at=None):
        folder.mkdir(exist_ok=True)
        ports = free_ports(2)
        commands = [[JOB, folder, index, *ports] for index in range(2)]
        environments = [{}, {} if kill_at is None else {"KILL_AT": str(kill_at)}]
        return started(commands, folder, environments)

    left_alone, killed = tmp_path / "left_alone", tmp_path / "killed"
    with start(left_alone) as processes:
        wait_for_all(processes, left_alone, 300)
    with start(killed, kill_at=15) as processes:
        assert processes[1].wait(timeout=300) < 0, tail(killed / "1.txt")
        end = time.monotonic() + 5  # the other cannot go on alone; what starts them ends it
        while processes[0].poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert processes[0].poll() != 0
    assert list((killed / "backups").glob("step-*.npz"))
    with start(killed) as processes:
        wait_for_all(processes, killed, 300)
    starts = {int(line) for line in (killed / "starts.txt").read_text().split()}
    assert len(starts) == 2 and min(starts) == 0, starts
    for index in range(2):
        # What workers had counted apart is restored as their sum, which rounds otherwise.
        check_same(killed / f"worker{index}.npz", left_alone / f"worker{index}.npz", 1e-6)
