"""Latency, memory and time by operation."""

__all__: list[str] = []
