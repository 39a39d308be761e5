"""One worker: `python worker.py FOLDER INDEX PORT PORT ...` trains each case of FOLDER/cases.json.

With a single port, or none, it is the only process and uses no strategy.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

FOLDER, INDEX, PORTS = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if len(PORTS) > 1:
    workers = [f"127.0.0.1:{port}" for port in PORTS]
    task = {"type": "worker", "index": INDEX}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

STRATEGY = (
    tf.distribute.MultiWorkerMirroredStrategy() if len(PORTS) > 1 else tf.distribute.get_strategy()
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.distribution import cases  # noqa: E402

for number, case in enumerate(json.loads((FOLDER / "cases.json").read_text())):
    with STRATEGY.scope():
        found = cases.train(**case)
    np.savez(FOLDER / f"case{number}-worker{INDEX}.npz", **found)
    print("done", case, flush=True)

if len(PORTS) > 1:  # the first worker leads the others and must not leave before they are done
    total = STRATEGY.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(())))
    assert float(STRATEGY.experimental_local_results(total)[0]) == len(PORTS)
