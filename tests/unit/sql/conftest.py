"""A fresh in-memory database and a session on it, for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from database import Client, TestDatabase  # noqa: E402


@pytest.fixture
def database() -> Iterator[TestDatabase]:
    opened = TestDatabase()
    yield opened
    opened.close()


@pytest.fixture
def client(database: TestDatabase) -> Client:
    return database.client()
