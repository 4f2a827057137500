#!/usr/bin/env bash
# Find psql and pgbench, or install them where that was asked for. Never fails: what needs them says so when it is skipped.
set -u
missing=()
command -v psql >/dev/null || missing+=(postgresql-client)
command -v pgbench >/dev/null || ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1 || missing+=(postgresql-contrib)
if [ ${#missing[@]} -eq 0 ]; then
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
fi
exit 0
