#!/bin/sh
# Sees to it that a Docker Engine answers, and prints where: the value of DOCKER_HOST.
#
#   docker.sh up     uses the engine of DOCKER_HOST or of this machine; where there is none, installs Debian's
#                    docker.io (as root) and starts one below <target>/docker
#   docker.sh down   ends the one that `up` started, if it did
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
case ${CARGO_TARGET_DIR:-target} in
    /*) target=$CARGO_TARGET_DIR ;;
    *) target=$here/../${CARGO_TARGET_DIR:-target} ;;
esac
mkdir -p "$target/docker"
folder=$(CDPATH='' cd -- "$target/docker" && pwd)
# A socket's path has room for 107 characters, and containerd's lies deeper.
place=/run/legation-docker-$(printf '%s' "$folder" | cksum | cut -d ' ' -f 1)
own=unix://$place/docker.sock

answers() {
    docker --host "$1" version >/dev/null 2>&1
}

fail() {
    echo "integration: the estate in containers needs Docker: $1" >&2
    exit 1
}

get() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io iptables util-linux
}

up() {
    if [ -n "${DOCKER_HOST:-}" ]; then
        answers "$DOCKER_HOST" || fail "nothing answers at DOCKER_HOST, $DOCKER_HOST"
        echo "$DOCKER_HOST"
        return
    fi
    for tool in docker dockerd iptables nsenter; do
        command -v "$tool" >/dev/null && continue
        [ "$(id -u)" = 0 ] || fail "$tool is missing, and only root can install it"
        command -v apt-get >/dev/null || fail "$tool is missing, and this is no Debian"
        { get || { apt-get update -qq && get; }; } >"$folder/install.log" 2>&1 ||
            fail "Debian's docker.io can't be installed: $(tail -n 3 "$folder/install.log")"
        break
    done
    for host in unix:///var/run/docker.sock "$own"; do
        if answers "$host"; then
            echo "$host"
            return
        fi
    done
    [ "$(id -u)" = 0 ] || fail "no engine answers, and only root can start one"
    mkdir -p "$place"
    setsid dockerd --host "$own" --data-root "$folder/data" --exec-root "$place/exec" --pidfile "$place/pid" \
        >"$folder/dockerd.log" 2>&1 </dev/null &
    engine=$!
    tries=0
    until answers "$own"; do
        tries=$((tries + 1))
        if ! kill -0 "$engine" 2>/dev/null || [ "$tries" -ge 300 ]; then
            kill -TERM "$engine" 2>/dev/null || true
            fail "dockerd does not start: $(tail -n 5 "$folder/dockerd.log")"
        fi
        sleep 0.1
    done
    echo "$own"
}

# Whether this process is an engine that runs: what has ended and was not reaped does not.
runs() {
    [ "$(cat "/proc/$1/comm" 2>/dev/null || true)" = dockerd ] && ! grep -q '^State:.Z' "/proc/$1/status"
}

down() {
    pid=$(cat "$place/pid" 2>/dev/null) || return 0
    runs "$pid" || return 0
    # Not under an estate that somebody else has there.
    flock --nonblock "$place/docker.sock.estate" true || return 0
    kill -TERM "$pid"
    tries=0
    while runs "$pid"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "dockerd ($pid) does not end"
        sleep 0.1
    done
}

exec 9>"$folder/lock"
flock 9
case ${1:-} in
    up) up 9>&- ;;
    down) down ;;
    *) fail "say up or down" ;;
esac
