"""Write what is generated from the code: docs/configuration.md and deploy/thunderdb.toml. `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from thunderdb.base import config

ROOT = Path(__file__).resolve().parents[1]

HEAD = """\
# Configuration

Written by `make docs` from `thunderdb/base/config.py`; a test compares the two.

The file is the one given with `--config`, else `$THUNDERDB_CONFIG`, else `/etc/thunderdb/thunderdb.toml`, else the built-in
defaults. An empty file is valid. A key is overridden by its environment variable, and that by its flag:

    thunderdb --config thunderdb.toml                                   # the file
    THUNDERDB_PG_PORT=15432 thunderdb --config thunderdb.toml           # over the file
    thunderdb --config thunderdb.toml --pg-port 15433                   # over both

`thunderdb --check-config --config FILE` reads all of it, starts nothing, and exits with 0, or with 2 and one line that names
the key, its value and what is allowed. An unknown key is an error, never ignored.

Sizes are written `"16KB"`, `"128MB"`, `"1GB"` (powers of 1024), durations `"500ms"`, `"30s"`, `"5min"`, `"6h"`, `"7d"`.
"""


def configuration() -> str:
    parts = [HEAD]
    rows = config.describe()
    for section in config.SECTIONS:
        own = [row for row in rows if row.section == section]
        parts.append(f"\n## [{section}]\n")
        if not own:
            parts.append("\nNo keys yet; the section itself is accepted.\n")
        for row in own:
            parts.append(f"\n### {row.name}\n\n{row.doc}\n\n")
            parts.append(f"- default: `{row.default}`\n- allowed: {row.allowed}\n- override: `{row.env}`, `{row.flag}`\n")
    return "".join(parts)


def outputs() -> dict[Path, str]:
    """The generated files and what they must contain."""
    return {ROOT / "docs" / "configuration.md": configuration(), ROOT / "deploy" / "thunderdb.toml": config.sample()}


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for path, text in outputs().items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
