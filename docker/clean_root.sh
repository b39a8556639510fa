#!/usr/bin/env bash
# Performs the Dockerfile without a Docker engine, then starts the image's server the way Docker would be told to:
# as its non-root user, read-only root, no capabilities, /data and a small /tmp alone writable, as process 1.
# Asks it for a photo, stops it with SIGTERM, and expects exit code 0.
#
#   sudo docker/clean_root.sh [WORK]
#
# buildah reads the Dockerfile itself, so the steps here and there cannot drift. One thing stands in: the base image
# python:3.11-slim-bookworm is made by debootstrap of Debian bookworm and its own python3.11.
# WORK keeps base and layers between calls (20 GB; default: a folder that is removed at the end).
# Needs root, and: apt-get install buildah debootstrap util-linux curl. The machine's own pip.conf, certificates and
# what PIP_MOUNTS names ("/wheels /more") are bound into the build; nothing of them stays in the image.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "clean_root: needs root, for chroot and mount" >&2; exit 2; }
for tool in buildah debootstrap unshare setpriv nsenter curl python3; do
    command -v "$tool" >/dev/null || { echo "clean_root: $tool is missing (apt-get install buildah debootstrap util-linux curl)" >&2; exit 2; }
done

if [ $# -gt 0 ]; then
    work=$(realpath -m "$1")
    remove=
else
    work=$(mktemp -d)
    remove=yes
fi
mkdir -p "$work"/{storage,run,tmp,base}
data=$(mktemp -d "$work/data-XXXX")
export TMPDIR=$work/tmp
container="" namespace=""

b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
say() { printf '== %s\n' "$*"; }
fail() { printf 'clean_root: %s\n' "$*" >&2; exit 1; }
clean_up() {
    # The server itself: unshare's --kill-child is forgotten when setpriv changes the user.
    [ -z "$namespace" ] || { pkill -KILL --parent "$namespace" || kill -KILL "$namespace" || true; } 2>/dev/null
    [ -z "$container" ] || b rm "$container" >/dev/null 2>&1 || true
    rm -rf "$data"
    [ -z "$remove" ] || { b rm --all >/dev/null 2>&1 || true; b rmi --all --force >/dev/null 2>&1 || true; rm -rf "$work"; }
}
trap clean_up EXIT

# -- the base, and the image ---------------------------------------------------------------------------------------
base=localhost/python:3.11-slim-bookworm
if ! b inspect --type image "$base" >/dev/null 2>&1; then
    say "base: debootstrap of bookworm with python3.11"
    debootstrap --variant=minbase --include=python3.11,python3.11-venv,python3-distutils,ca-certificates bookworm "$work/base" >"$work/debootstrap.log" \
        || fail "debootstrap: $(tail -3 "$work/debootstrap.log")"
    ln -sf /usr/bin/python3.11 "$work/base/usr/local/bin/python"
    scratch=$(b from scratch)
    cp -a "$work/base/." "$(b mount "$scratch")/"
    b commit --quiet --rm "$scratch" "$base" >/dev/null
    rm -rf "$work/base"
fi

volumes=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
[ ! -f /etc/pip.conf ] || volumes+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
for folder in ${PIP_MOUNTS:-}; do volumes+=(--volume "$folder:$folder:ro"); done
arguments=(--build-arg VERSION=clean-root --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || arguments+=(--build-arg PIP_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL")
say "image: the steps of Dockerfile (buildah $(buildah --version | cut -d' ' -f3), isolation chroot)"
started=$SECONDS
# HEALTHCHECK is a field of Docker's image format only.
b build --isolation chroot --pull-never --layers --format docker "${volumes[@]}" "${arguments[@]}" --tag lhier-clean-root . \
    >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; fail "the build failed"; }
say "built in $((SECONDS - started)) s"

container=$(b from --pull-never localhost/lhier-clean-root)
root=$(b mount "$container")
b inspect --type image localhost/lhier-clean-root >"$work/image.json"
python3 - "$work/image.json" "$data" <<'PYTHON' || fail "the image's configuration is not what it should be"
import json, pathlib, sys
image = json.loads(pathlib.Path(sys.argv[1]).read_text())
config = image["Docker"]["config"]
assert config["User"] == "10001:10001", config["User"]
assert config["Entrypoint"] == ["lhier"], config["Entrypoint"]  # exec form: no shell between SIGTERM and the server
assert config["Cmd"] == ["serve"], config["Cmd"]
assert set(config["Volumes"]) == {"/data"}, config["Volumes"]
assert set(config["ExposedPorts"]) == {"8000/tcp"}, config["ExposedPorts"]
check = config["Healthcheck"]["Test"]
assert check[0] == "CMD", check
labels = config["Labels"]
assert labels["org.opencontainers.image.version"] == "clean-root", labels
assert {"title", "description", "licenses", "revision", "source"} <= {key.rpartition(".")[2] for key in labels}, labels
folder = pathlib.Path(sys.argv[2])
(folder / "environment").write_text("".join(f"{line}\0" for line in config["Env"]))
(folder / "healthcheck").write_text("".join(f"{word}\0" for word in check[1:]))
PYTHON
mapfile -d '' environment <"$data/environment"
mapfile -d '' healthcheck <"$data/healthcheck"
rm "$data/environment" "$data/healthcheck"
say "size: $(du -sm "$root" | cut -f1) MiB, of which packages $(du -sm "$root/opt/lhier" | cut -f1) MiB, CUDA's libraries $(du -smc "$root"/opt/lhier/lib/python3.11/site-packages/nvidia 2>/dev/null | tail -1 | cut -f1) MiB"
chroot "$root" /opt/lhier/bin/python -m pip freeze --exclude lhier | LC_ALL=C sort >"$work/installed.txt"
unpinned=$(LC_ALL=C sort constraints.txt | LC_ALL=C comm -23 "$work/installed.txt" -)
[ -z "$unpinned" ] || fail "installed, but not pinned in constraints.txt: $unpinned"
say "$(wc -l <"$work/installed.txt") packages, all pinned by constraints.txt"

# -- the way Docker would run it -----------------------------------------------------------------------------------
chown 10001:10001 "$data"
chmod 0750 "$data"
limits=(setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all)

# contained ENV... -- COMMAND...: in namespaces of its own, root read-only; as process 1.
contained() {
    local variables=()
    while [ "$1" != -- ]; do variables+=("$1"); shift; done
    shift
    # shellcheck disable=SC2016  # the inner shell's variables
    exec unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 data=$2; shift 2
        mount --bind "$root" "$root"
        mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
        mount -t tmpfs -o mode=755,size=1m tmpfs "$root/dev"
        for device in null zero full random urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
        mkdir "$root/dev/shm"; mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs "$root/dev/shm"
        mount -t tmpfs -o size=512m,mode=1777,noexec,nosuid,nodev tmpfs "$root/tmp"
        mount --bind "$data" "$root/data"
        mount -o remount,bind,ro "$root"
        exec chroot "$root" "$@"' contained "$root" "$data" \
        "${limits[@]}" env -i HOME=/data "${environment[@]}" "${variables[@]}" sh -c 'cd /data && exec "$@"' sh "$@"
}
in_image() { (contained OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" -- "$@"); }

say "as $(in_image id)"
! in_image sh -c 'touch /opt/lhier/x' 2>/dev/null || fail "the root file system can be written"
in_image sh -c 'touch /data/x && rm /data/x' || fail "/data cannot be written"

say "a small store, made by the image's own commands"
make_store() {
    in_image lhier data specimens /data/specimens --species 12 --images 5 --workers 1
    in_image lhier train specimens-lhier-128 --out /data/checkpoint --cache /data/cache/features \
        --set 'data.root="/data/specimens"' --set train.steps=10 --set train.classes_per_batch=4 --set train.images_per_class=2
    in_image lhier embed /data/checkpoint /data/specimens/images --out /data/points
    in_image lhier index build /data/points --store /data/store
}
(make_store) >"$work/store.log" 2>&1 &  # not under `if` or `||`, where set -e sleeps
wait $! || { tail -20 "$work/store.log" >&2; fail "no store"; }
photo=$(find "$data/specimens/images" -name '*.jpg' | sort | sed -n 1p)  # not head, which would end sort early: pipefail

port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
read_key=$(python3 -c 'import secrets; print(secrets.token_hex(24))')
write_key=$(python3 -c 'import secrets; print(secrets.token_hex(24))')

# serve_once: start, check, stop. Sets $ready_s.
serve_once() {
    local log=$work/serve.log server status began=$SECONDS answer
    (contained LHIER_PORT="$port" LHIER_AUTH__READ_KEY="$read_key" LHIER_AUTH__WRITE_KEY="$write_key" -- lhier serve) >"$log" 2>&1 &
    namespace=$!
    until curl --silent --fail --output /dev/null "$url/readyz"; do
        kill -0 "$namespace" 2>/dev/null || { tail -20 "$log" >&2; fail "the server ended before it was ready"; }
        [ $((SECONDS - began)) -lt 300 ] || { tail -20 "$log" >&2; fail "not ready after 300 s"; }
        sleep 0.5
    done
    ready_s=$((SECONDS - began))
    server=$(pgrep --parent "$namespace")
    [ "$(awk '/^NSpid/ {print $3}' "/proc/$server/status")" = 1 ] || fail "the server is not process 1"
    [ "$(awk '/^Uid/ {print $2}' "/proc/$server/status")" = 10001 ] || fail "the server's user is not 10001"
    [ "$(awk '/^CapBnd/ {print $2}' "/proc/$server/status")" = 0000000000000000 ] || fail "the server holds capabilities"
    nsenter --target "$server" --mount --pid --root --wd "${limits[@]}" env -i "${environment[@]}" LHIER_PORT="$port" "${healthcheck[@]}" \
        || fail "the image's HEALTHCHECK fails on a healthy server"
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' -F "file=@$photo" "$url/v1/search")
    [ "$status" = 401 ] || fail "a search without a key answered $status, expected 401"
    answer=$(curl --silent --fail -H "Authorization: Bearer $read_key" -F "file=@$photo" -F limit=3 "$url/v1/search") || fail "the search failed"
    python3 - "$answer" "${photo#"$data/specimens/images/"}" <<'PYTHON' || fail "the search did not find the photo itself: $answer"
import json, sys
hits = json.loads(sys.argv[1])["hits"]
assert len(hits) == 3 and hits[0]["id"] == sys.argv[2] and hits[0]["distance"] < 0.01, hits
PYTHON
    curl --silent --fail "$url/metrics" | grep '^lhier_http_request_duration_seconds_count' >/dev/null || fail "/metrics tells nothing of requests"
    # A request under way when SIGTERM comes is answered.
    curl --silent --output /dev/null --write-out '%{http_code}' --limit-rate 50k -H "Authorization: Bearer $read_key" -F "file=@$photo" "$url/v1/search" >"$work/last" &
    local last=$!
    sleep 0.1
    kill -TERM "$server"
    began=$SECONDS status=0
    wait "$namespace" || status=$?
    namespace=
    [ "$status" = 0 ] || { tail -20 "$log" >&2; fail "exit code $status after SIGTERM, expected 0"; }
    wait "$last" || true
    [ "$(cat "$work/last")" = 200 ] || fail "the request under way at SIGTERM answered $(cat "$work/last")"
    say "ready after $ready_s s, searched, ended with 0 within $((SECONDS - began)) s of SIGTERM"
}
serve_once
[ -n "$(find "$data/cache/lhier/graphs" -name 'model.xml' 2>/dev/null)" ] || fail "no OpenVINO graph in /data/cache: another runtime served"
serve_once
say "clean root: passed"
