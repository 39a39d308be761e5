"""What is found out before training, and where training fails."""

__all__: list[str] = []
