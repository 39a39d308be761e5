"""Training from a configuration file: `kmtl train CONFIG.yaml`, on one machine or many.

Needs the extra "train"; `configuration.config` reads the file, `run` trains.
"""

__all__ = []
