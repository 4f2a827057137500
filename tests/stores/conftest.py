"""Tests on stores that run on this machine (the fixture `emulators` is in tests/conftest.py)."""

from __future__ import annotations

import os

import pytest

STORE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of the host's own accounts."""
    for name in list(os.environ):
        if name.startswith(STORE_VARIABLES):
            monkeypatch.delenv(name)
    return monkeypatch
