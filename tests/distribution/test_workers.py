"""Two worker processes give the weights, logs and predictions of one."""

import json
from pathlib import Path

import numpy as np
import pytest

import kmtl
from tests.distribution import cases
from tests.distribution.processes import free_ports, started, wait_for_all

WORKER = Path(__file__).with_name("worker.py")

CASES = [
    {"network": "HardSharing"},
    {"network": "Lookup"},
    {"network": "CrossStitchNetwork", "weighting": "UncertaintyWeighting"},
    {"network": "SluiceNetwork", "weighting": "PCGrad"},
    {"network": "FactorizedNetwork", "weighting": "DynamicWeightAverage", "steps": 2},
    {"network": "HardSharing", "weighting": "MGDA", "accumulate": 2},
    {"network": "HardSharing", "accumulate": 2, "policy": "mixed_bfloat16"},
]
NAMED = {rule.__name__ for rule in kmtl.weighting.NAMES.values()}
RULES = sorted({"ScheduledWeights", "StaticWeights"} | NAMED)


def train_on_two(chosen, folder, seconds):
    """Case number -> arrays of worker 0, which are those of worker 1."""
    (folder / "cases.json").write_text(json.dumps(chosen))
    ports = free_ports(2)
    commands = [[WORKER, folder, index, *ports] for index in range(2)]
    with started(commands, folder) as processes:
        wait_for_all(processes, folder, seconds)
    results = []
    for number in range(len(chosen)):
        first, second = (
            dict(np.load(folder / f"case{number}-worker{index}.npz")) for index in range(2)
        )
        for name in first:
            np.testing.assert_array_equal(second[name], first[name], err_msg=name)
        results.append(first)
    return results


def check_equal(found, expected, rtol, atol):
    assert [name.split()[0] for name in found] == [name.split()[0] for name in expected]
    for (name, value), reference in zip(found.items(), expected.values(), strict=True):
        np.testing.assert_allclose(value, reference, rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def found_on_two(tmp_path_factory):
    return train_on_two(CASES, tmp_path_factory.mktemp("workers"), seconds=400)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_two_workers_equal_one(number, found_on_two):
    case = CASES[number]
    tolerance = (1e-4, 2e-6) if "policy" not in case else (0.02, 0.01)
    check_equal(found_on_two[number], cases.train(**case), *tolerance)


@pytest.mark.nightly
def test_two_workers_equal_one_with_every_rule(tmp_path):
    chosen = [{"weighting": name, "epochs": 1} for name in RULES]
    for case, found in zip(chosen, train_on_two(chosen, tmp_path, seconds=1200), strict=True):
        check_equal(found, cases.train(**case), 2e-3, 1e-5)
