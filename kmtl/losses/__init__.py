"""Losses of several tasks."""

__all__ = []
