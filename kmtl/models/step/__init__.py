"""One training step of `MultiTaskModel`: the gradient of each task, its weight, the update."""

__all__: list[str] = []
