"""What an Edge TPU runs, by its published rules."""

__all__: list[str] = []
