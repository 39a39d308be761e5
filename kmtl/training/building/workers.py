"""The workers of a run on several machines: who they are, and what they do together."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping

import tensorflow as tf

from kmtl.training.causes import cause, is_of_peers
from kmtl.training.configuration.schema import Training

_ADDRESS = re.compile(r".+:\d{1,5}")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of this run, and which of them this process is."""

    workers: int
    index: int


def read_cluster(training: Training, environment: Mapping[str, str]) -> Cluster | None:
    """What TF_CONFIG says, or None where it is not set.

    Raises:
        ValueError: if it says nothing sensible, or what the configuration does not.
    """
    text = environment.get("TF_CONFIG")
    cluster = None if not text else _parsed(text)
    if cluster is None and training.strategy == "multi_worker":
        raise ValueError(
            "`training.strategy` must be another where the variable TF_CONFIG is not set. "
            "Received: multi_worker"
        )
    if cluster is not None and training.strategy not in ("auto", "multi_worker"):
        raise ValueError(
            "`training.strategy` must be auto or multi_worker where TF_CONFIG is set. "
            f"Received: {training.strategy}, and TF_CONFIG with {cluster.workers} workers"
        )
    workers = 1 if cluster is None else cluster.workers
    if training.workers not in (None, workers):
        named = "no TF_CONFIG" if cluster is None else f"TF_CONFIG with {workers}"
        raise ValueError(
            "`training.workers` must be the number of workers in TF_CONFIG. "
            f"Received: training.workers={training.workers}, and {named}"
        )
    if training.logical_cpus and (cluster or training.strategy not in ("auto", "mirrored")):
        raise ValueError(
            "`training.logical_cpus` must be left out on several machines, and with other "
            "strategies than auto and mirrored. "
            f"Received: training.logical_cpus={training.logical_cpus}"
        )
    return cluster


def _parsed(text):
    try:
        found = json.loads(text)
        workers, task = found["cluster"]["worker"], found["task"]
        kind, index = task["type"], task["index"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            'TF_CONFIG must be JSON like {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {text} '
            f"({type(error).__name__}: {error})"
        ) from None
    if not isinstance(workers, list) or not workers or set(found["cluster"]) != {"worker"}:
        raise ValueError(
            "TF_CONFIG must have a `cluster` of workers only, in a list of addresses. "
            f"Received: {found['cluster']}"
        )
    bad = [one for one in workers if not isinstance(one, str) or not _ADDRESS.fullmatch(one)]
    if bad:
        raise ValueError(
            f"TF_CONFIG must give each worker an address like host:2222. Received: {bad[0]}"
        )
    if len(set(workers)) < len(workers):
        raise ValueError(f"TF_CONFIG must list each worker once. Received: {workers}")
    if kind != "worker" or type(index) is not int or not 0 <= index < len(workers):
        raise ValueError(
            f"TF_CONFIG must have a `task` of type worker with an index from 0 to "
            f"{len(workers) - 1}. Received: {task}"
        )
    return Cluster(len(workers), index)


@contextlib.contextmanager
def in_one_line(cluster: Cluster | None):
    """What TensorFlow says at length, as one line.

    Raises:
        ConnectionError: in place of TensorFlow's errors, where another worker is gone.
        ValueError: in place of all others.
    """
    try:
        yield
    except tf.errors.OpError as error:
        told = f"{type(error).__name__}: {cause(error)}"
        if cluster is not None and is_of_peers(error):
            raise ConnectionError(
                "All workers must go on together; see what the others say and start each of them "
                "again, with `training.backup` they go on from the last backup. "
                f"Received: {told}"
            ) from error
        raise ValueError(
            "Data, network and machine must be such that TensorFlow can compute every step. "
            f"Received: {told}"
        ) from error


def on_first_worker(
    strategy: tf.distribute.Strategy, cluster: Cluster | None, action: Callable[[], None]
) -> None:
    """Runs `action` on the first worker, for which the others wait; it fails for all or none.

    Raises:
        ChildProcessError: on the other workers, if it failed.
    """
    failure = None
    if cluster is None or cluster.index == 0:
        try:
            action()
        except Exception as error:
            failure = error
    if cluster is not None:
        own = strategy.run(lambda: tf.constant([0 if failure is None else 1]))
        failed = int(tf.reduce_sum(strategy.gather(own, axis=0)))
        if failed and failure is None:
            raise ChildProcessError(
                "The first worker must write its files. Received: an error there, see what it says"
            )
    if failure is not None:
        raise failure
