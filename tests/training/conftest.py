"""The small configuration, in a folder of its own."""

import pytest

from kmtl.training.configuration.config import read_config
from tests.training.configs import write_config


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A function of settings that returns the small configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    path = write_config(tmp_path)
    return lambda *settings: read_config(path, settings)
