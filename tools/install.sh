#!/usr/bin/env bash
# Install ThunderDB for one user: its own venv, two commands on PREFIX/bin, folders of mode 0700, a sample configuration.
set -euo pipefail
python=$1 prefix=$2 config_dir=$3 state_dir=$4
here=$(cd "$(dirname "$0")/.." && pwd)
umask 077

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "ThunderDB needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Set PYTHON=/path/to/python3.11" >&2
  exit 1
}
mkdir -p "$prefix/bin" "$prefix/lib" "$config_dir" "$state_dir"
[ -x "$prefix/lib/thunderdb/bin/python" ] || "$python" -m venv "$prefix/lib/thunderdb"
"$prefix/lib/thunderdb/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "${here}[stores,encryption]"
for command in thunderdb thunderdb-sim; do
  ln -sf "$prefix/lib/thunderdb/bin/$command" "$prefix/bin/$command"
done

chmod 0700 "$config_dir" "$state_dir"
if [ -e "$config_dir/thunderdb.toml" ]; then
  echo "Kept $config_dir/thunderdb.toml"
else
  sed -e "s@^# data_dir = .*@data_dir = \"$state_dir/data\"@" -e "s@^# wal_dir = .*@wal_dir = \"$state_dir/wal\"@" \
    "$here/deploy/thunderdb.toml" >"$config_dir/thunderdb.toml"
  chmod 0600 "$config_dir/thunderdb.toml"
  echo "Wrote $config_dir/thunderdb.toml"
fi
"$prefix/bin/thunderdb" --config "$config_dir/thunderdb.toml" --check-config >/dev/null
echo "Start it with:   $prefix/bin/thunderdb --config $config_dir/thunderdb.toml"
echo "Connect with:    psql -h 127.0.0.1 thunderdb"
case ":$PATH:" in *":$prefix/bin:"*) ;; *) echo "Note: $prefix/bin is not on your PATH." ;; esac
