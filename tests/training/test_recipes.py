"""What of docs/kubernetes.md and docs/tpu_vm.md can be tried anywhere."""

import os
import subprocess
from pathlib import Path

import keras
import pytest
import yaml

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

from kmtl.training.building.strategy import make_strategy
from kmtl.training.building.workers import Cluster, read_cluster
from kmtl.training.configuration.schema import Training

DOCS = Path(__file__).resolve().parents[2] / "docs"
TRAINING = {"losses": {"a": "mse"}, "epochs": 1}


def yaml_blocks(name):
    """The documents of a page's YAML blocks."""
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def test_kubernetes_lines_make_a_cluster(tmp_path):
    service, job, config = yaml_blocks("kubernetes.md")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count and pod["subdomain"] == service["metadata"]["name"]
    fake = tmp_path / "kmtl"
    fake.write_text('#!/bin/sh\nprintf "%s" "$TF_CONFIG" > told\nprintf "%s" "$*" > arguments\n')
    fake.chmod(0o755)
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "1", **given}
    subprocess.run(
        [*container["command"], *container["args"]], cwd=tmp_path, env=environment, check=True
    )
    found = read_cluster(Training(**TRAINING), {"TF_CONFIG": (tmp_path / "told").read_text()})
    assert found == Cluster(workers=count, index=1)
    assert '"kmtl-0.kmtl:2222","kmtl-1.kmtl:2222"' in (tmp_path / "told").read_text()
    assert (tmp_path / "arguments").read_text().endswith(f"training.workers={count}")
    Training(**TRAINING, **config["training"])


def test_configurations_for_a_tpu_are_valid():
    (config,) = yaml_blocks("tpu_vm.md")
    assert Training(**TRAINING, **config["training"]).strategy == "tpu"


def test_a_machine_without_tpus_says_so():
    with pytest.raises(ValueError, match="without TPUs. Received: tpu [(][^.{]*[)]$"):
        make_strategy(Training(**TRAINING, strategy="tpu"), None)
