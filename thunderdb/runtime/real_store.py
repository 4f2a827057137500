"""Object stores over the network (S3, Google, Azure), through obstore, which is imported only when one is opened."""

from __future__ import annotations

from thunderdb.base.errors import ConfigError
from thunderdb.runtime.ports import ObjectStore
from thunderdb.runtime.real_tasks import AsyncioScheduler


class RealStores:
    def __init__(self, scheduler: AsyncioScheduler) -> None:
        self._scheduler = scheduler

    def open(self, url: str) -> ObjectStore:
        raise ConfigError(f"no object store can be opened yet: {url}")
