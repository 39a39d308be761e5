"""Measuring files: what each costs, and what it costs each head."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from kmtl.export.benchmarking.latency import first_rows, median_latencies
from kmtl.export.litert.post_training import PostTraining
from kmtl.export.quantization.recipes import assign
from kmtl.export.runtime.litert_model import RUNTIMES, LiteRTModel
from kmtl.export.tuning.judge import Judge

REFERENCE = "float32"
FIRST, SECOND = RUNTIMES
ROUNDS, WARM_UP, CALLS = 5, 5, 20


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One file, measured.

    Attributes:
        quantization: Its type.
        overrides: Layers and heads with types of their own.
        bytes: Its size; 0 where there is no such file.
        latency_ms: Median of a call with as many rows as the file computes at a time; None
            unless latency is the target.
        scores: Head -> metric.
        losses: Head -> loss against the float32 file, in the budget's unit.
        within_budget: Whether every head keeps its budget, on both runtimes.
        refused: Why there is no such file; else None.
    """

    quantization: str
    overrides: dict[str, str]
    bytes: int = 0
    latency_ms: float | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    within_budget: bool = False
    refused: str | None = None


class Exhausted(Exception):
    """No evaluation is left."""


class Evaluator:
    """Measures files, each once, and counts.

    A file is run on the interpreter, and where every head then keeps its budget on
    `CompiledModel` as well; each head's worse score counts.

    Args:
        source: The converted model.
        finish: Flatbuffer and its type -> the file.
        judge: The heads' budgets.
        arrays: Data by input name.
        target: `"bytes"` or `"latency"`.
        most: Largest number of evaluations.
        progress: Called with a line for each.

    Attributes:
        evaluations: All that were made, the float32 file's first.
    """

    def __init__(
        self,
        source: PostTraining,
        finish: Callable[[bytes, str], bytes],
        judge: Judge,
        arrays: Mapping[str, np.ndarray],
        target: str,
        most: int,
        progress: Callable[[str], None],
    ):
        self._source, self._finish = source, finish
        self._judge, self._arrays = judge, arrays
        self._target, self._most, self._progress = target, most, progress
        self._known: dict[tuple, Evaluation] = {}
        self._reference = LiteRTModel(source.content, FIRST)
        second = LiteRTModel(source.content, SECOND)
        self._scores = judge.worse(*(judge.scores(r(arrays)) for r in (self._reference, second)))
        judge.check_reference(self._scores)
        self._ms = self._latencies({})[REFERENCE] if target == "latency" else None
        self(REFERENCE, {})

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All that were made, in their order."""
        return tuple(self._known.values())

    @property
    def left(self) -> int:
        """How many more may be made."""
        return self._most - len(self._known)

    def __call__(self, quantization: str, overrides: Mapping[str, str]) -> Evaluation:
        """Measures the file of these types, unless that was done before.

        Raises:
            Exhausted: if it would be one evaluation too many.
        """
        key = tuple(assign(self._source.operations, quantization, overrides))
        if key not in self._known:
            if not self.left:
                raise Exhausted
            found = self._measure(quantization, dict(overrides))
            self._known[key] = found
            self._progress(f"{len(self._known)} of at most {self._most}: {self._line(found)}")
        return self._known[key]

    def content(self, evaluation: Evaluation) -> bytes:
        """The file that was measured."""
        return self._build(evaluation.quantization, evaluation.overrides)

    def runs(self, quantization: str, overrides: Mapping[str, str]) -> bool:
        """Whether there is such a file and both runtimes run it; its heads are not measured."""
        row = {name: array[:1] for name, array in self._arrays.items()}
        try:
            content = self._build(quantization, overrides)
            for runtime in RUNTIMES:
                LiteRTModel(content, runtime)(row)
        except (ValueError, RuntimeError):
            return False
        return True

    def fastest(self, evaluations: list[Evaluation]) -> Evaluation:
        """The fastest of several, timed in turns."""
        runners = {str(i): LiteRTModel(self.content(e)) for i, e in enumerate(evaluations)}
        times = self._latencies(runners, rounds=2 * ROUNDS)
        i = min(range(len(evaluations)), key=lambda i: times[str(i)])
        return evaluations[i]

    def _build(self, quantization, overrides):
        content, *_ = self._source.quantized(quantization, overrides)
        return self._finish(content, quantization)

    def _measure(self, quantization, overrides):
        try:
            content = self._build(quantization, overrides)
            runner = LiteRTModel(content, FIRST)
            scores = self._judge.scores(runner(self._arrays))
            losses = self._judge.losses(scores, self._scores)
            if self._judge.keeps(losses):
                again = self._judge.scores(LiteRTModel(content, SECOND)(self._arrays))
                scores = self._judge.worse(scores, again)
                losses = self._judge.losses(scores, self._scores)
        except (ValueError, RuntimeError) as error:
            return Evaluation(quantization, overrides, refused=" ".join(str(error).split()))
        return Evaluation(
            quantization=quantization,
            overrides=overrides,
            bytes=len(content),
            latency_ms=self._latency(runner) if self._target == "latency" else None,
            scores=scores,
            losses=losses,
            within_budget=self._judge.keeps(losses),
        )

    def _latency(self, runner):
        """Of this file, as if it had been timed when the float32 file was first.

        A busy moment slows both files down; what is left of it, the median drops.
        """
        turns = [self._latencies({"file": runner}, rounds=1) for _ in range(ROUNDS)]
        return self._ms * float(np.median([ms["file"] / ms[REFERENCE] for ms in turns]))

    def _latencies(self, runners, rounds=ROUNDS):
        runners = {REFERENCE: self._reference, **runners}
        inputs = {name: first_rows(runner, self._arrays) for name, runner in runners.items()}
        return median_latencies(runners, inputs, rounds=rounds, warmup=WARM_UP, runs=CALLS)

    def _line(self, found):
        mixed = "".join(f", {name}={kind}" for name, kind in found.overrides.items())
        if len(found.overrides) > 3:
            counts = Counter(found.overrides.values())
            mixed = "".join(f", {kind} for {number}" for kind, number in counts.items())
        if found.refused:
            return f"{found.quantization}{mixed}: no such file"
        cost = f"{found.bytes:,} bytes"
        if found.latency_ms is not None:
            cost += f", {found.latency_ms:.3g} ms"
        lost = ", ".join(f"{task} loses {value:.3g}" for task, value in found.losses.items())
        verdict = "" if found.within_budget else "; over budget"
        return f"{found.quantization}{mixed}: {cost}; {lost}{verdict}"
