"""Latency, memory and profile of files; figures of time are only put in order, never judged."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import benchmark_litert, export_litert, load_litert
from kmtl.export.benchmarking import benchmark as benchmark_module
from kmtl.export.benchmarking import profile_ops
from kmtl.export.benchmarking.latency import first_rows, median_latencies

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
DATA = {
    "wide": RNG.normal(size=(20, 6)).astype("float32"),
    "token": RNG.integers(0, 9, size=(20, 2)).astype("int32"),
}


def build(width=4):
    keras.utils.set_random_seed(3)
    wide = keras.Input((6,), name="wide")
    token = keras.Input((2,), dtype="int32", name="token")
    h = layers.Concatenate()([wide, layers.Flatten()(layers.Embedding(9, 3)(token))])
    h = layers.Dense(width, activation="relu")(h)
    heads = {task: layers.Dense(width)(h) for task in ("zeta", "alpha", "mid")}
    return kmtl.MultiTaskModel({"wide": wide, "token": token}, heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    export_litert(build(), folder / "small.tflite", representative_data=DATA)
    export_litert(build(1024), folder / "large.tflite", representative_data=DATA)
    export_litert(build(), folder / "any.tflite", representative_data=DATA, batch_size=None)
    content = (folder / "small.tflite").read_bytes()
    (folder / "short.tflite").write_bytes(content[: len(content) // 2])
    (folder / "foreign.tflite").write_bytes(b"no model at all")
    return folder


@pytest.fixture(scope="module", params=["interpreter", "compiled_model"])
def found(request, folder):
    return benchmark_litert(folder / "small.tflite", request.param, 2, warmup=2, runs=9)


def test_the_figures_are_those_of_the_file(found, folder):
    assert found.path == folder / "small.tflite"
    assert found.bytes == found.path.stat().st_size
    assert (found.num_threads, found.warmup, found.runs, found.batch_size) == (2, 2, 9, 1)
    json.dumps({**dataclasses.asdict(found), "path": str(found.path)})


def test_percentiles_are_positive_and_in_order(found):
    ms = found.latency_ms
    assert 0 < ms["min"] <= ms["p50"] <= ms["p90"] <= ms["p99"]
    assert ms["min"] <= ms["mean"]


def test_every_operation_is_profiled(found):
    kernels = [operation.kernel for operation in found.profile]
    assert sum("Fully Connected" in kernel for kernel in kernels) == 4
    assert "GATHER" in kernels
    assert all(operation.ms >= 0 for operation in found.profile)


def test_percentiles_of_known_durations():
    ms = benchmark_module._percentiles([i / 1000 for i in range(101)])
    assert ms == pytest.approx({"min": 0, "mean": 50, "p50": 50, "p90": 90, "p99": 99})


def test_memory_grows_with_the_weights(folder):
    peaks = {
        name: benchmark_litert(folder / f"{name}.tflite", runs=1).peak_memory_bytes
        for name in ("small", "large")
    }
    size = (folder / "large.tflite").stat().st_size
    assert size > 12e6  # three heads of 1024 x 1024
    assert peaks["large"] - peaks["small"] > 0.9 * size


def test_a_file_for_any_number_of_rows_is_measured_with_one(folder):
    for runtime in ("interpreter", "compiled_model"):
        found = benchmark_litert(folder / "any.tflite", runtime, runs=3)
        assert found.batch_size == 1 and found.profile


def test_a_runtime_without_profiler_is_said_to_have_none(folder, monkeypatch, tmp_path):
    program = benchmark_module._work

    def without(name, *arguments):
        if name == "profile_ops.py":
            name = tmp_path / "profile_ops.py"  # an absolute name goes before the folder
            name.write_text("raise AttributeError('undefined symbol')")
        return program(str(name), *arguments)

    monkeypatch.setattr(benchmark_module, "_work", without)
    assert benchmark_litert(folder / "small.tflite", runs=1).profile is None


def test_a_crash_is_an_error_and_not_ours(folder, monkeypatch, tmp_path):
    (tmp_path / "crash.py").write_text("import os; os.abort()")
    program = benchmark_module._work
    monkeypatch.setattr(
        benchmark_module, "_work", lambda name, *rest: program(str(tmp_path / "crash.py"), *rest)
    )
    with pytest.raises(ValueError, match=r"must load and run. Received: .*small.*ended with -6"):
        benchmark_litert(folder / "small.tflite", runs=1)


def test_the_profiler_s_summary_is_read_by_rows():
    summary = """
==== Run Order ====
   [node type] [start] [first] [avg ms] [%] [cdf%] [mem KB] [times called] [Name]
   Delegate/Fully Connected (NC, F32) GEMM  0.000  0.011  0.008  6.531%  50.204%  0.000  4  [a]:1
                                   ADD  0.000  0.001  0.500  0.000%  50.204%  0.000  8  [b]:2

==== Top by Computation Time ====
                                   ADD  0.000  0.001  0.500  0.000%  50.204%  0.000  8  [b]:2
"""
    rows = profile_ops.parse(summary, runs=4)
    assert rows == [("Fully Connected (NC, F32) GEMM", 0.008), ("ADD", 1.0)]


def test_first_rows_are_the_given_ones_and_repeat(folder):
    runner = load_litert(folder / "small.tflite")
    rows = first_rows(runner, DATA)
    np.testing.assert_array_equal(rows["wide"], DATA["wide"][:1])
    assert first_rows(runner)["token"].tolist() == [[0, 0]]


def test_median_latencies_have_the_files_names(folder):
    runners = {name: load_litert(folder / f"{name}.tflite") for name in ("large", "small")}
    inputs = {name: first_rows(runner) for name, runner in runners.items()}
    found = median_latencies(runners, inputs, rounds=2, warmup=1, runs=3)
    assert list(found) == ["large", "small"] and min(found.values()) > 0


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("none", {}, FileNotFoundError, "none.tflite"),
        ("short", {}, ValueError, r"must be whole.*short.tflite"),
        ("foreign", {}, ValueError, r"must start with the identifier TFL3.*foreign"),
        ("small", {"runtime": "gpu"}, ValueError, r"`runtime` must be one of.*'gpu'"),
        ("small", {"num_threads": 0}, ValueError, r"`num_threads` must be at least 1.*=0"),
        ("small", {"runs": 0}, ValueError, r"`runs` must be at least 1. Received: runs=0"),
        ("small", {"warmup": -1}, ValueError, r"`warmup` must be at least 0. Received: warmup=-1"),
        ("small", {"inputs": {"wide": [[1.0]]}}, ValueError, r"missing \['token'\]"),
    ],
)
def test_bad_input(folder, name, options, error, message):
    with pytest.raises(error, match=message):
        benchmark_litert(folder / f"{name}.tflite", **options)
