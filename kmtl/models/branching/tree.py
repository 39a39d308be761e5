"""Which tasks share which branch of a `BranchingModel`."""

import dataclasses
from collections.abc import Collection, Sequence


@dataclasses.dataclass(frozen=True)
class Branch:
    """A copy of a stage: the tasks that it serves, and the name of its last layer."""

    tasks: tuple[str, ...]
    name: str


@dataclasses.dataclass(frozen=True)
class BranchTree:
    """The branches of each stage; printed as an indented list, from the input up.

    Args:
        stages: From the input up, the branches of each stage, sorted by their tasks. Those of a
            stage serve every task once, and each serves a union of branches of the stage above.
        active: The stage that is to be widened next, or None where nothing is left to widen.
    """

    stages: tuple[tuple[Branch, ...], ...]
    active: int | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, sorted."""
        return tuple(sorted(task for branch in self.stages[-1] for task in branch.tasks))

    @property
    def incoming(self) -> list[tuple[str, ...]]:
        """The tasks of each branch that ends at the active stage: of single tasks, at the top."""
        above = self.require_active() + 1
        if above == len(self.stages):
            return [(task,) for task in self.tasks]
        return [branch.tasks for branch in self.stages[above]]

    def require_active(self) -> int:
        """The active stage.

        Raises:
            ValueError: if there is none.
        """
        if self.active is None:
            raise ValueError(
                "A network can be widened down to its input, or to where one branch serves all "
                f"tasks, and no further. Received: a tree with nothing left to widen:\n{self}"
            )
        return self.active

    def checked(self, grouping: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """A grouping of the tasks at the active stage, sorted.

        Raises:
            ValueError: if it is no list of lists, does not hold every task once, or takes a branch
                apart.
        """
        if not (_is_list(grouping) and all(map(_is_list, grouping))):
            raise ValueError(
                f"`grouping` must be a list of lists of tasks. Received: grouping={grouping!r}"
            )
        groups = sorted(tuple(sorted(group)) for group in grouping)
        if sorted(task for group in groups for task in group) != list(self.tasks) or () in groups:
            raise ValueError(
                f"`grouping` must hold each of the tasks {list(self.tasks)} in one group, and no "
                f"empty groups. Received: grouping={grouping}"
            )
        for branch in self.incoming:
            if not any(set(branch) <= set(group) for group in groups):
                raise ValueError(
                    "`grouping` must keep together the tasks that share a branch above, such as "
                    f"{list(branch)}. Received: grouping={grouping}"
                )
        return groups

    def widened(self, branches: Sequence[Branch]) -> "BranchTree":
        """The tree with these branches at the active stage, which moves down."""
        active = self.require_active()
        stages = list(self.stages)
        stages[active] = tuple(sorted(branches, key=lambda branch: branch.tasks))
        ended = active == 0 or len(branches) == 1
        return BranchTree(tuple(stages), None if ended else active - 1)

    def children(self, stage: int, tasks: Sequence[str]) -> list[Branch]:
        """The branches of a stage that serve some of these tasks."""
        return [branch for branch in self.stages[stage] if set(branch.tasks) <= set(tasks)]

    def to_config(self) -> dict:
        """As JSON can hold it."""
        stages = [[[list(b.tasks), b.name] for b in branches] for branches in self.stages]
        return {"stages": stages, "active": self.active}

    @classmethod
    def from_config(cls, config: dict) -> "BranchTree":
        """The opposite of `to_config`."""
        stages = tuple(
            tuple(Branch(tuple(tasks), name) for tasks, name in branches)
            for branches in config["stages"]
        )
        return cls(stages, config["active"])

    def __str__(self):
        lines = []

        def add(stage, tasks, depth):
            if stage == len(self.stages):
                lines.extend(f"{'  ' * depth}{task}" for task in tasks)
                return
            for branch in self.children(stage, tasks):
                lines.append(f"{'  ' * depth}{branch.name}: {', '.join(branch.tasks)}")
                add(stage + 1, branch.tasks, depth + 1)

        add(0, self.tasks, 0)
        return "\n".join(lines)


def _is_list(value):
    return isinstance(value, Collection) and not isinstance(value, str)


def thin_tree(tasks: Sequence[str], names: Sequence[str]) -> BranchTree:
    """All tasks share every stage."""
    everyone = tuple(sorted(tasks))
    active = len(names) - 1 if len(everyone) > 1 else None
    return BranchTree(tuple((Branch(everyone, name),) for name in names), active)
