"""TF_CONFIG: what is refused before TensorFlow waits for other workers."""

import json

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

from kmtl.training.building.strategy import make_strategy
from kmtl.training.building.workers import Cluster, read_cluster
from kmtl.training.configuration.schema import Training


def training(**changes):
    return Training(losses={"a": "mse"}, epochs=1, **changes)


def tf_config(workers=("a:1", "b:1"), kind="worker", index=1, **more):
    cluster = {"worker": list(workers), **more}
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_cluster():
    environment = {"TF_CONFIG": tf_config()}
    for changes in ({}, {"strategy": "multi_worker"}, {"workers": 2}):
        assert read_cluster(training(**changes), environment) == Cluster(workers=2, index=1)
    assert read_cluster(training(), {}) is None
    assert read_cluster(training(workers=1), {"TF_CONFIG": ""}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG must be JSON like"),
        ("[]", "TF_CONFIG must be JSON like"),
        ('{"cluster": {"worker": ["a:1"]}}', "Received: .*KeyError: 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "KeyError: 'index'"),
        (tf_config(index=2), "an index from 0 to 1. Received: .*'index': 2"),
        (tf_config(index=-1), "an index from 0 to 1"),
        (tf_config(index="0"), "an index from 0 to 1"),
        (tf_config(kind="evaluator"), "a `task` of type worker"),
        (tf_config(chief=["c:1"]), "a `cluster` of workers only"),
        (tf_config(workers=[]), "a `cluster` of workers only"),
        (tf_config(workers=["a:1", "b"]), "an address like host:2222. Received: b"),
        (tf_config(workers=["a:1", 7]), "an address like host:2222. Received: 7"),
        (tf_config(workers=["a:1", "a:1"]), "list each worker once"),
    ],
)
def test_bad_clusters(text, message):
    with pytest.raises(ValueError, match=message):
        read_cluster(training(), {"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("changes", "environment", "message"),
    [
        ({"workers": 3}, {"TF_CONFIG": tf_config()}, "training.workers=3, and TF_CONFIG with 2"),
        ({"workers": 3}, {}, "training.workers=3, and no TF_CONFIG"),
        ({"strategy": "multi_worker"}, {}, "another where the variable TF_CONFIG is not set"),
        ({"strategy": "mirrored"}, {"TF_CONFIG": tf_config()}, "Received: mirrored, and TF_CONFIG"),
        ({"logical_cpus": 2}, {"TF_CONFIG": tf_config()}, "`training.logical_cpus` must be left"),
        ({"logical_cpus": 2, "strategy": "none"}, {}, "`training.logical_cpus` must be left out"),
    ],
)
def test_what_disagrees(changes, environment, message):
    with pytest.raises(ValueError, match=message):
        read_cluster(training(**changes), environment)


def test_strategies_of_one_machine():
    assert make_strategy(training(strategy="none"), None).num_replicas_in_sync == 1
    assert make_strategy(training(), None).num_replicas_in_sync == 1  # there is no GPU
    assert make_strategy(training(logical_cpus=2), None).num_replicas_in_sync == 2
    assert make_strategy(training(strategy="mirrored"), None).num_replicas_in_sync == 1
