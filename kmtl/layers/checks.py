"""Checks that several layers share."""


def check_streams(layer, shapes) -> None:
    """Requires a list of equal shapes."""
    shapes = list(shapes) if isinstance(shapes, (list, tuple)) else [shapes]
    if not shapes or not all(isinstance(shape, (list, tuple)) for shape in shapes):
        raise ValueError(
            f"`{type(layer).__name__}` takes a list of tensors of one shape. "
            f"Received: input_shape={shapes}"
        )
    if any(tuple(shape[1:]) != tuple(shapes[0][1:]) for shape in shapes):
        raise ValueError(
            f"The inputs of `{type(layer).__name__}` must have one shape. "
            f"Received: input shapes {[tuple(shape) for shape in shapes]}"
        )


def check_num_tasks(num_tasks, *, optional=False) -> None:
    """Requires a positive integer, or None where that means the number of inputs."""
    if num_tasks is None and optional:
        return
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"`num_tasks` must be an integer >= 1. Received: num_tasks={num_tasks}")


def resolve_num_tasks(layer, received: int) -> int:
    """`layer.num_tasks`, or the number of inputs where that was left open."""
    if layer.num_tasks not in (None, received):
        raise ValueError(
            f"`{type(layer).__name__}` must get `num_tasks` inputs. "
            f"Received: num_tasks={layer.num_tasks}, {received} inputs"
        )
    return received
