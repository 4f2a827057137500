"""Stores that run on this machine, started when first asked for; one that cannot be had here is a skip that says why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tools.harness.emulators import Emulator, Unavailable, start_azure, start_google, start_s3

STORE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")


@pytest.fixture(scope="session")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Emulator]]:
    started: dict[str, Emulator] = {}
    directory = tmp_path_factory.mktemp("emulators")

    def start(kind: str) -> Emulator:
        if kind not in started:
            makers = {"s3": start_s3, "gs": start_google, "az": lambda: start_azure(directory)}
            try:
                started[kind] = makers[kind]()
            except Unavailable as reason:
                pytest.skip(str(reason))
        return started[kind]

    yield start
    for emulator in started.values():
        emulator.stop()


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of the host's own accounts."""
    for name in list(os.environ):
        if name.startswith(STORE_VARIABLES):
            monkeypatch.delenv(name)
    return monkeypatch
