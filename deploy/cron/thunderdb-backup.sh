#!/bin/bash
# A verified backup of the running ThunderDB, and an end to those that are too old. For cron or a systemd timer:
#
#   0 2 * * * thunder /usr/local/lib/thunderdb/thunderdb-backup.sh        (a line of /etc/cron.d/thunderdb)
#
# Exits with 0 only if the backup was completed *and* verified; says on stderr what went wrong. Old backups go only then, and
# the newest KEEP_LEAST of them never. Settings, from the environment:
#
#   THUNDERDB_URL     http://localhost:8088      the daemon's admin API
#   TOKEN_FILE        (none)                     the file named by admin_token_file, if there is one
#   BACKUP_DIR        /backups/thunderdb         where backups go
#   COMPRESS          true
#   KEEP_DAYS         7                          older ones go
#   KEEP_LEAST        2                          as many of the newest stay, however old
#   TIMEOUT_S         21600                      a backup that takes longer counts as failed, and is cancelled
#   POLL_S            10                         how often to ask
#   THUNDERDB         thunderdb                  the command, for --verify-backup
#   VERIFY_OPTIONS    (none)                     such as --deep
set -euo pipefail

URL=${THUNDERDB_URL:-http://localhost:8088}
BACKUP_DIR=${BACKUP_DIR:-/backups/thunderdb}
COMPRESS=${COMPRESS:-true}
KEEP_DAYS=${KEEP_DAYS:-7}
KEEP_LEAST=${KEEP_LEAST:-2}
TIMEOUT_S=${TIMEOUT_S:-21600}
POLL_S=${POLL_S:-10}
THUNDERDB=${THUNDERDB:-thunderdb}
read -r -a verify_options <<<"${VERIFY_OPTIONS:-}"

say() { echo "[$(date -u +%Y-%m-%dT%H:%M:%SZ)] $*"; }
fail() {
  say "ERROR: $*" >&2
  exit 1
}
trap 'say "ERROR: line $LINENO ended with status $?: no backup is promised" >&2' ERR

for tool in curl jq flock "$THUNDERDB"; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# Call the admin API; print its answer. The token travels by a file descriptor, never on a command line. An answer of 4xx or 5xx
# is printed, too, and is a failure.
call() {
  local method=$1 path=$2 body=${3:-}
  local options=(--silent --show-error --fail-with-body --max-time 60 --connect-timeout 10 --request "$method")
  [ -z "$body" ] || options+=(--header 'Content-Type: application/json' --data "$body")
  if [ -n "${TOKEN_FILE:-}" ]; then
    curl "${options[@]}" --header @<(printf 'Authorization: Bearer %s\n' "$(<"$TOKEN_FILE")") "$URL$path"
  else
    curl "${options[@]}" "$URL$path"
  fi
}

# One at a time, also where the last one has not ended when the next one is due.
exec 9>"${LOCK_FILE:-$BACKUP_DIR/.thunderdb-backup.lock}"
flock --nonblock 9 || fail "another run has not ended yet"

destination="$BACKUP_DIR/full-$(date -u +%Y%m%d-%H%M%S)"
request=$(jq --null-input --compact-output --arg destination "$destination" --argjson compress "$COMPRESS" \
  '{destination: $destination, include_wal: true, compress: $compress}')

say "Starting ThunderDB backup to $destination"
answer=$(call POST /admin/backup "$request") || fail "the backup did not start: $answer"
id=$(jq --exit-status --raw-output .backup_id <<<"$answer") || fail "this answer has no backup_id: $answer"
say "Backup started: $id"

deadline=$((SECONDS + TIMEOUT_S))
misses=0
while true; do
  if status=$(call GET "/admin/backup/status/$id"); then
    misses=0
  elif jq --exit-status .status <<<"$status" >/dev/null 2>&1; then
    : # an answer all the same: an unknown id says "failed"
  elif ((++misses >= 6)); then
    fail "the daemon does not answer any more: $status"
  fi
  case $(jq --raw-output '.status // empty' <<<"$status" 2>/dev/null || true) in
    completed) break ;;
    failed) fail "the backup failed: $(jq --raw-output '.message // .error' <<<"$status")" ;;
  esac
  if ((SECONDS >= deadline)); then
    call POST "/admin/backup/$id/cancel" >/dev/null || true
    fail "the backup has not ended after $TIMEOUT_S seconds"
  fi
  sleep "$POLL_S"
done
say "Backup completed"

"$THUNDERDB" --verify-backup "$destination" ${verify_options[@]+"${verify_options[@]}"} || fail "the backup does not verify: $destination"

# Only full, finished backups of this script count and go; a name tells its age, so that a touched directory stays what it is.
cutoff=full-$(date -u -d "$KEEP_DAYS days ago" +%Y%m%d-%H%M%S)
mapfile -t backups < <(
  find "$BACKUP_DIR" -mindepth 2 -maxdepth 2 -name backup_manifest.json -printf '%h\n' |
    sed -n 's|.*/\(full-[0-9]\{8\}-[0-9]\{6\}\)$|\1|p' | sort
)
# What an incremental backup stands on stays, however old.
bases=$(find "$BACKUP_DIR" -mindepth 2 -maxdepth 2 -name backup_manifest.json -exec jq --raw-output '.base.backup_id // empty' {} +)
removable=$((${#backups[@]} - KEEP_LEAST))
for ((index = 0; index < removable; index++)); do
  name=${backups[index]}
  [[ $name < $cutoff ]] || break
  if grep -qxF "$(jq --raw-output .backup_id "$BACKUP_DIR/$name/backup_manifest.json")" <<<"$bases"; then
    say "Kept $name: an incremental backup stands on it"
    continue
  fi
  # The manifest first: from then on this is no backup, whatever happens in the middle.
  rm -f -- "$BACKUP_DIR/$name/backup_manifest.json"
  rm -rf -- "${BACKUP_DIR:?}/$name"
  say "Removed $name: older than $KEEP_DAYS days"
done

say "Backup process complete"
