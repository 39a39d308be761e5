"""A greedy search for the cheapest mix of types in which every head keeps its budget."""

import math
from collections.abc import Callable, Sequence

from kmtl.export.tuning.evaluate import REFERENCE, Evaluation, Evaluator, Exhausted
from kmtl.export.tuning.judge import Judge
from kmtl.export.tuning.mixes import Unit, spell

# A file is a rung of the ladder if it saves this share of all that can be saved below the top.
LEAST_STEP = 0.1
VERY_MUCH = 1e6  # stands for a loss that is no number


class Search:
    """The search.

    1. Every type alone. The cheapest file within budget is the top of a ladder; what is
       cheaper, but over budget, makes its rungs.
    2. Sensitivity: what each head loses when one unit alone goes down to a rung.
    3. All units on the lowest rung. The file is measured, and units go up: first those that by
       their sensitivity recover most of what heads are over budget for what they cost. Again,
       until all heads keep their budgets.
    4. Each unit that is not on its lowest rung is tried lower again, and one that saves nothing
       where it is, higher.

    Args:
        evaluate: Measures files.
        judge: The heads' budgets.
        units: What can have a type of its own, those with the most weights first.
        operations: The converted model's.
        types: The types to mix.
        cost: What an evaluation's file costs.

    Attributes:
        sensitivity: Unit -> type -> head -> what it loses more than in the top file when this
            unit alone has that type.
        complete: Whether there were evaluations for all of it.
    """

    def __init__(
        self,
        evaluate: Evaluator,
        judge: Judge,
        units: Sequence[Unit],
        operations: Sequence,
        types: Sequence[str],
        cost: Callable[[Evaluation], float],
    ):
        self._evaluate, self._judge, self._units = evaluate, judge, units
        self._operations, self._types, self._cost = operations, types, cost
        self.sensitivity: dict[str, dict[str, dict[str, float]]] = {}
        self.complete = True

    def run(self) -> list[Evaluation]:
        """Searches; returns the evaluations within budget, the cheapest first."""
        try:
            files = self._uniform()
            within = [kinds for kinds, found in files.items() if found.within_budget]
            if within and self._units:
                top = min(within, key=lambda kinds: self._cost(files[kinds]))
                rungs = self._ladder(files, top)
                if rungs:
                    steps, savings = self._measure_sensitivity(rungs, top)
                    self._climb(steps, savings)
        except Exhausted:
            self.complete = False
        chosen = [e for e in self._evaluate.evaluations if self._is_candidate(e)]
        return sorted(chosen, key=lambda e: (self._cost(e), sum(e.losses.values())))

    def _is_candidate(self, found):
        kinds = {found.quantization, *found.overrides.values()}
        return found.within_budget and kinds <= {*self._types}

    def _mix(self, kinds) -> Evaluation:
        return self._evaluate(*spell(self._operations, self._units, kinds))

    def _uniform(self) -> dict[tuple[str, ...], Evaluation]:
        """Types of the units -> measured file, for each type wherever there is one of it."""
        files, refused = {}, []
        for kind in self._types:
            found = self._evaluate(kind, {})
            if found.refused:
                refused.append(kind)
            else:
                files[(kind,) * len(self._units)] = found
        if not files:
            return files
        rest = min(files, key=lambda kinds: self._cost(files[kinds]))
        for kind in refused:
            alone = [{unit.name: kind} for unit in self._units]
            kinds = tuple(
                kind if self._evaluate.runs(REFERENCE, overrides) else other
                for overrides, other in zip(alone, rest, strict=True)
            )
            found = self._mix(kinds)
            if not found.refused:
                files[kinds] = found
        return files

    def _ladder(self, files, top) -> list[tuple[str, ...]]:
        """The files that are worth being mixed with `top`, the cheapest first."""
        costs = {kinds: self._cost(found) for kinds, found in files.items()}
        excess = {k: sum(self._excess(found).values()) for k, found in files.items()}
        better, least = [], math.inf
        for kinds in sorted(costs, key=costs.get):
            if costs[kinds] < costs[top] and excess[kinds] < least:
                better.append(kinds)
                least = excess[kinds]
        step = LEAST_STEP * (costs[top] - min(costs.values()))
        rungs, above = [], costs[top]
        for kinds in reversed(better):
            if above - costs[kinds] >= step:
                rungs.append(kinds)
                above = costs[kinds]
        return rungs[::-1]

    def _measure_sensitivity(self, rungs, top):
        """Unit's index -> its types from the lowest rung to the top's; (index, type) -> saving."""
        reference = self._mix(top)
        steps = {i: [top[i]] for i in range(len(self._units))}
        savings = {(i, top[i]): 0.0 for i in steps}
        # Half of the evaluations are for the climb; units with few weights stay at the top.
        most = max(1, self._evaluate.left // 2 // len(rungs))
        self.complete = most >= len(self._units)
        for rung in reversed(rungs):
            for i, unit in enumerate(self._units[:most]):
                if rung[i] in steps[i]:
                    continue
                found = self._mix((*top[:i], rung[i], *top[i + 1 :]))
                if found.refused:
                    continue
                lost = {t: loss - reference.losses[t] for t, loss in found.losses.items()}
                self.sensitivity.setdefault(unit.name, {})[rung[i]] = lost
                savings[i, rung[i]] = self._cost(reference) - self._cost(found)
                steps[i].insert(0, rung[i])
        return steps, savings

    def _climb(self, steps, savings) -> None:
        """Up from the lowest types until every head keeps its budget, and down where possible."""
        kinds = [steps[i][0] for i in steps]
        found = self._mix(kinds)
        while not found.within_budget:
            excess = self._excess(found)
            while excess:  # up until, by the sensitivities, all is well; then measure
                higher = [
                    (i, kind) for i in steps for kind in steps[i][steps[i].index(kinds[i]) + 1 :]
                ]
                if not higher:
                    break
                i, kind = max(higher, key=lambda up: self._worth(*up, kinds, excess, savings))
                recovered = self._recovered(i, kinds[i], kind)
                kinds[i] = kind
                if found.refused or not any(recovered.get(task, 0) > 0 for task in excess):
                    break
                left = {task: over - recovered.get(task, 0) for task, over in excess.items()}
                excess = {task: over for task, over in left.items() if over > 0}
            found = self._mix(kinds)
        for i in sorted(steps, key=lambda i: -savings[i, steps[i][0]]):
            place = steps[i].index(kinds[i])
            higher = steps[i][place + 1 :]
            wasted = [kind for kind in higher if savings[i, kinds[i]] <= savings[i, kind]]
            for kind in steps[i][:place] + wasted:
                other = self._mix([*kinds[:i], kind, *kinds[i + 1 :]])
                if other.within_budget and self._cost(other) < self._cost(found):
                    kinds[i], found = kind, other
                    break

    def _worth(self, i, kind, kinds, excess, savings) -> tuple[float, float]:
        """Share of the excess that the other type recovers, for what it costs; that cost."""
        price = max(savings[i, kinds[i]] - savings[i, kind], 1e-9)
        gains = self._recovered(i, kinds[i], kind)
        shares = (min(max(gains.get(t, 0), 0) / over, 1) for t, over in excess.items())
        return sum(shares) / price, -price

    def _recovered(self, i, kind, other) -> dict[str, float]:
        """Head -> what it loses less, alone, if a unit has the other type; may be negative."""
        found = self.sensitivity.get(self._units[i].name, {})
        before, after = found.get(kind, {}), found.get(other, {})
        return {t: _finite(before[t]) - _finite(after.get(t, 0)) for t in before}

    def _excess(self, found):
        if found.refused:
            return dict.fromkeys(self._judge.budget, VERY_MUCH)
        return {task: _finite(over) for task, over in self._judge.excess(found.losses).items()}


def _finite(loss):
    return loss if math.isfinite(loss) else VERY_MUCH
