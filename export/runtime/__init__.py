"""Running a file by task name, and comparing it with the Keras model."""

__all__: list[str] = []
