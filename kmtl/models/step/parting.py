"""Where the tasks of a network part, and how to run it on either side of that."""

from collections.abc import Sequence

import keras
from keras import tree

from kmtl.models import graph as graph_lib
from kmtl.models.step.task_rows import is_tappable, tapped


class Parting:
    """Cuts a functional graph in two: the trunk, and what belongs to one task each.

    An operation is shared if one of its outputs leads to several tasks. Those operations are
    the trunk; the tensors that pass from it to the others are the parting tensors. In a
    cross-stitch network, for instance, they are the features before the last stitch: all tasks
    read them, each by coefficients of its own.

    Each task then gets a copy of the parting tensors, or a tap at the dense layer that reads
    them, so that one backward pass from all losses gives every task's own gradient (see
    `kmtl.models.step.task_rows`).

    Args:
        model: A `MultiTaskModel` with a functional graph.
        names: Layers whose outputs are to be the parting tensors. Defaults to `None`, found
            as above.

    Raises:
        ValueError: if nothing is shared, a layer is unknown, or the named tensors do not
            separate the trunk from all heads.
    """

    def __init__(self, model: keras.Model, names: Sequence[str] | None = None):
        self.model = model
        self.tasks = list(model.task_names)
        ends = {task: model._outputs_struct[task] for task in self.tasks}
        nodes = list(graph_lib.nodes_for(model, ends.values()))
        self._ends = {task: id(x) for task, x in ends.items()}
        self._inputs = [id(x) for x in model._inputs]
        leads_to = _tasks_of_tensors(nodes, ends)
        if names is None:
            shared = [n for n in nodes if any(len(leads_to[id(y)]) > 1 for y in n.outputs)]
        else:
            shared = _nodes_before(nodes, _outputs_of(model, nodes, names))
        chosen = {id(node) for node in shared}
        private = [node for node in nodes if id(node) not in chosen]
        made = {id(y): y for node in shared for y in node.outputs}
        crossing = {id(x) for node in private for x in node.input_tensors}
        crossing |= set(self._ends.values())
        self.tensors = [y for key, y in made.items() if key in crossing]
        if names is not None:
            _check_separate(self.tensors, _outputs_of(model, nodes, names), names)
        if not self.tensors:
            mixing = sorted({n.operation.name for n in private if _mixes_tasks(n, leads_to)})
            raise ValueError(
                "A weighting by gradients needs layers that several tasks share. Received: model "
                f"{model.name!r}, whose tasks {self.tasks} share none"
                + (
                    f" but {mixing}, each of whose outputs is for one task. Compare gradients of "
                    f"their weights: scope='parameters', parting={mixing}"
                    if mixing
                    else ""
                )
            )
        self._shared = shared
        self._private = [
            (node, sorted(set().union(*(leads_to[id(y)] for y in node.outputs))))
            for node in private
        ]
        self._leads_to = leads_to
        self.trunk_variables = _variables_of(shared)
        self.head_variables = _variables_of(private)
        self.last_variables = _variables_of(_last_with_variables(shared, self.tensors))

    def variables_of_task(self, task: str) -> list:
        """Trainable variables of the layers that lead to this task alone."""
        return _variables_of([node for node, tasks in self._private if tasks == [task]])

    def run_trunk(self, inputs, taps=None):
        """The parting tensors' values, and a dict of layer id -> what the tapped layers read.

        Args:
            inputs: The model's inputs.
            taps: Layer id -> what to add before its activation. Defaults to `None`, nothing.
        """
        taps, read = taps or {}, {}
        values = self._run_inputs(inputs)
        for node in self._shared:
            args, kwargs = node.arguments.fill_in(values)
            layer = id(node.operation)
            if layer in taps:
                read[layer] = args[0]
            with tapped(node.operation, taps.get(layer)):
                _store(values, node, node.operation(*args, **kwargs))
        return [values[id(x)] for x in self.tensors], read

    def dense_layers(self) -> list:
        """The trunk's dense layers that read one row for each sample, once."""
        found, by_sample = [], set(self._inputs)
        for node in self._shared:
            # Operations on tensors may change the number of rows; they are no layers.
            if isinstance(node.operation, keras.layers.Layer) and all(
                id(x) in by_sample for x in node.input_tensors
            ):
                by_sample.update(id(y) for y in node.outputs)
                if _reads_vectors_once(node) and is_tappable(node.operation):
                    found.append(node.operation)
        return found

    def variables_beside(self, layer) -> set[int]:
        """Ids of the variables of the trunk's other layers."""
        others = (node.operation for node in self._shared if node.operation is not layer)
        return {id(v) for other in others for v in getattr(other, "variables", ())}

    def dense_readers(self, tensor) -> list | None:
        """The dense layers that read a parting tensor, each with the tasks of its outputs.

        None if anything else reads it, too.
        """
        if id(tensor) in self._ends.values():
            return None
        readers = []
        for node, tasks in self._private:
            if not any(x is tensor for x in node.input_tensors):
                continue
            once = len(node.input_tensors) == 1 and len(node.operation._inbound_nodes) == 1
            if not once or not is_tappable(node.operation):
                return None
            owners = tasks if not _keeps_tasks_apart(node) else self._owners(node, tasks)
            if not _keeps_tasks_apart(node) and len(tasks) > 1:
                return None
            readers.append((node.operation, owners))
        return readers

    def _owners(self, node, tasks):
        """For each output of a node the task that it leads to; any for one without."""
        return [next(iter(self._leads_to[id(y)]), tasks[0]) for y in node.outputs]

    def run_heads(self, inputs, features, taps=None):
        """Task -> output, from each task's own copy of the parting tensors.

        Args:
            inputs: The model's inputs.
            features: Task -> values of the parting tensors.
            taps: Layer id -> what to add before its activation. Defaults to `None`, nothing.
        """
        taps = taps or {}
        keys = [id(x) for x in self.tensors]
        common = self._run_inputs(inputs)
        values = {
            task: {**common, **dict(zip(keys, features[task], strict=True))} for task in self.tasks
        }
        for node, tasks in self._private:
            with tapped(node.operation, taps.get(id(node.operation))):
                if _keeps_tasks_apart(node):
                    tap_shared = id(node.operation) in taps
                    _run_once(node, self._owners(node, tasks), values, tap_shared)
                    continue
                for task in tasks:
                    args, kwargs = node.arguments.fill_in(values[task])
                    _store(values[task], node, node.operation(*args, **kwargs))
        return {task: values[task][end] for task, end in self._ends.items()}

    def _run_inputs(self, inputs):
        inputs = self.model._standardize_inputs(inputs)
        return dict(zip(self._inputs, inputs, strict=True))


def _reads_vectors_once(node) -> bool:
    shapes = [x.shape for x in node.input_tensors]
    return len(node.operation._inbound_nodes) == 1 and [len(shape) for shape in shapes] == [2]


def _keeps_tasks_apart(node) -> bool:
    """Whether output t of the node's layer depends on input t and on weights of its own only."""
    return getattr(node.operation, "keeps_tasks_apart", False)


def _mixes_tasks(node, leads_to) -> bool:
    """Whether a layer with weights has an output for each of several tasks, as `MMoE` has."""
    tasks = set().union(*(leads_to[id(y)] for y in node.outputs))
    weights = getattr(node.operation, "trainable_variables", ())
    return len(tasks) > 1 and bool(weights) and not _keeps_tasks_apart(node)


def _tasks_of_tensors(nodes, ends):
    """Tensor id -> the tasks that it leads to."""
    leads_to = {}
    for task, x in ends.items():
        leads_to.setdefault(id(x), set()).add(task)
    for node in reversed(nodes):
        outputs = [leads_to.setdefault(id(y), set()) for y in node.outputs]
        inputs = node.input_tensors
        if _keeps_tasks_apart(node) and len(inputs) == len(outputs):
            reached = outputs
        else:
            reached = [set().union(*outputs)] * len(inputs)
        for x, tasks in zip(inputs, reached, strict=True):
            leads_to.setdefault(id(x), set()).update(tasks)
    return leads_to


def _run_once(node, owners, values, same_input):
    """One call of a layer that keeps its tasks apart, each on its own copies."""
    inputs = node.input_tensors
    if same_input:
        outputs = node.operation(values[owners[0]][id(inputs[0])])
    else:
        inputs = inputs if len(inputs) == len(owners) else inputs * len(owners)
        own = [values[t][id(x)] for t, x in zip(owners, inputs, strict=True)]
        outputs = node.operation(own)
    for task, y, value in zip(owners, node.outputs, outputs, strict=True):
        values[task][id(y)] = value


def _store(values, node, outputs):
    for y, value in zip(node.outputs, tree.flatten(outputs), strict=True):
        values[id(y)] = value


def _outputs_of(model, nodes, names):
    known = [layer.name for layer in model.layers]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"`parting` must hold at least one of the model's layers {known}. "
            f"Received: parting={list(names)}"
        )
    return [y for node in nodes if node.operation.name in names for y in node.outputs]


def _nodes_before(nodes, tensors):
    needed = {id(x) for x in tensors}
    chosen = []
    for node in reversed(nodes):
        if any(id(y) in needed for y in node.outputs):
            chosen.append(node)
            needed.update(id(x) for x in node.input_tensors)
    return chosen[::-1]


def _check_separate(crossing, named, names):
    extra = [x for x in crossing if id(x) not in {id(y) for y in named}]
    if extra:
        layers = sorted({x._keras_history.operation.name for x in extra})
        raise ValueError(
            "`parting` must separate the trunk from all heads, but the outputs of the layers "
            f"{layers} go past it. Received: parting={list(names)}"
        )


def _variables_of(nodes):
    """Trainable variables of the nodes' layers, each once."""
    found = {}
    for node in nodes:
        for variable in getattr(node.operation, "trainable_variables", ()):
            found[id(variable)] = variable
    return list(found.values())


def _last_with_variables(nodes, tensors):
    """Going back from `tensors`, the first layers met that have weights."""
    pending, found = {id(x) for x in tensors}, []
    for node in reversed(nodes):
        if not any(id(y) in pending for y in node.outputs):
            continue
        if _variables_of([node]):
            found.append(node)
        else:
            pending.update(id(x) for x in node.input_tensors)
    return found
