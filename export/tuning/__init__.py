"""The smallest or fastest file in which every head keeps its budget."""

__all__: list[str] = []
