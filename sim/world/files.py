"""What a file is by its name, as the tables of faults call it."""

from __future__ import annotations

SMALL = {
    "control": "control", "written": "written", "identity": "identity", "archived": "archived", "lock": "lock",
    "restore": "marker", "restored": "marker", "initialising": "marker",
}  # fmt: skip


def file_kind(path: str) -> str:
    """Which kind of file a path is."""
    name = path.rpartition("/")[2].removeprefix(".")
    if not path:
        return "any file"
    if "/mnt/" in path:
        return "backup" if "/data/" in path or "manifest" in name else "archive"
    if name.startswith("pages."):
        return "page"
    if name.partition(".")[0] in SMALL:
        return SMALL[name.partition(".")[0]]
    if name.endswith(".history"):
        return "history"
    if len(name) >= 24 or "spare" in name:
        return "segment"
    return "directory" if "." not in name else "other"
