"""The optimizer of a network that got new weights, with all it has learned about the old ones."""

import keras
from keras import ops


def successor(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """An optimizer of the same settings, not built, as one that is takes no new variables.

    Raises:
        ValueError: for a `MultiOptimizer`, whose parts go by the names of variables.
    """
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            "A network that is widened must have one optimizer for all its weights, as it would "
            f"not be known which one is for new ones. Received: {type(optimizer).__name__}"
        )
    return type(optimizer).from_config(optimizer.get_config())


class Estate:
    """What a built optimizer has learned, by variable, to be handed over to another one.

    Args:
        optimizer: The optimizer, built.

    Raises:
        ValueError: for one whose state cannot be told apart by variables.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self.optimizer = optimizer
        variables = list(_inner(optimizer)._trainable_variables)
        twin, small = successor(optimizer), successor(optimizer)
        slots = _build(twin, variables)
        self._slots = {key: optimizer.variables[i] for key, (i, _) in slots.items()}
        self._others = _others(optimizer, slots)
        # Such as the number of steps and the learning rate, whatever the number of variables is.
        if len(self._others) != len(_others(small, _build(small, variables[:1]))):
            raise ValueError(
                "The optimizer must make its state by `add_variable_from_reference`, so that new "
                f"weights can be given that of old ones. Received: {type(_inner(twin)).__name__}"
            )

    def hand_over(self, heir, variables: list, sources: dict) -> None:
        """Builds `heir`, of the same settings, for `variables` and gives it the state.

        Args:
            heir: The other optimizer, not built.
            variables: Its variables.
            sources: Id of a variable -> id of that whose state it takes; others take their own.
        """
        _inherit_exclusions(_inner(self.optimizer), _inner(heir), variables, sources)
        slots = _build(heir, variables)
        for (owner, name), (_, slot) in slots.items():
            old = self._slots.get((sources.get(owner, owner), name))
            if old is not None:
                slot.assign(_value(old))
        for variable, old in zip(_others(heir, slots), self._others, strict=True):
            variable.assign(_value(old))


def _build(optimizer, variables) -> dict:
    """`(id of a variable, name of a slot) -> (position, slot)`."""
    inner, slots = _inner(optimizer), []
    make = inner.add_variable_from_reference

    def noting(reference_variable, name=None, **kwargs):
        slot = make(reference_variable, name=name, **kwargs)
        slots.append(((id(reference_variable), name), slot))
        return slot

    inner.add_variable_from_reference = noting
    try:
        optimizer.build(variables)
    finally:
        del inner.add_variable_from_reference
    position = {id(v): i for i, v in enumerate(optimizer.variables)}
    return {key: (position[id(slot)], slot) for key, slot in slots}


def _value(variable):
    # As a tensor first, which adds up what replicas hold apart.
    return ops.convert_to_numpy(ops.convert_to_tensor(variable))


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _others(optimizer, slots):
    positions = {i for i, _ in slots.values()}
    return [v for i, v in enumerate(optimizer.variables) if i not in positions]


def _inherit_exclusions(old, new, variables, sources):
    """Weight decay spares copies of what it spares; settings do not hold this."""
    spared = getattr(old, "_exclude_from_weight_decay", set())
    new.exclude_from_weight_decay(
        var_list=[v for v in variables if sources.get(id(v), id(v)) in spared]
    )
    new._exclude_from_weight_decay_pattern = getattr(
        old, "_exclude_from_weight_decay_pattern", None
    )
