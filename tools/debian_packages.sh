#!/usr/bin/env bash
# Find what the tests and benches call (psql, pgbench, curl, jq, rsync, shellcheck, systemd-analyze, promtool), or install it where
# that was asked for. Never fails: what needs them says so when it is skipped.
set -u
missing=()
command -v psql >/dev/null || missing+=(postgresql-client)
command -v pgbench >/dev/null || ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1 || missing+=(postgresql-contrib)
for tool in curl jq rsync shellcheck; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
command -v systemd-analyze >/dev/null || missing+=(systemd)
# Of prometheus only promtool is wanted, no service: it is taken out of the package, into the virtual environment.
promtool() { command -v promtool >/dev/null || [ -x .venv/bin/promtool ]; }
take_promtool() {
  promtool && return
  local folder
  folder=$(mktemp -d) || return
  (cd "$folder" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb . && test -x usr/bin/promtool) &&
    install -D -m 0755 "$folder/usr/bin/promtool" .venv/bin/promtool ||
    echo "SKIPPED: promtool could not be had from Debian's prometheus package; the checks of the alert rules are skipped."
  rm -rf "$folder"
}
if [ ${#missing[@]} -eq 0 ]; then
  if ! promtool && [ "${APT:-}" != 1 ] && [ "${CI:-}" != true ]; then
    echo "SKIPPED: promtool is not installed (APT=1 takes it from Debian's prometheus package); the alert rules are not checked."
  else
    take_promtool
  fi
  exit 0
fi
if [ "${APT:-}" != 1 ] && [ "${CI:-}" != true ]; then
  echo "SKIPPED: Debian packages ${missing[*]} are not installed (APT=1 as root installs them); what needs them is skipped."
elif [ "$(id -u)" != 0 ]; then
  echo "SKIPPED: Debian packages ${missing[*]} are missing and only root can install them; what needs them is skipped."
elif ! command -v apt-get >/dev/null; then
  echo "SKIPPED: ${missing[*]} are missing and there is no apt-get here; what needs them is skipped."
else
  echo "Installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # No cluster of its own: the benches make theirs in a scratch folder.
  mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
    echo "SKIPPED: the installation of ${missing[*]} failed (above); what needs them is skipped."
  fi
  take_promtool
fi
exit 0
