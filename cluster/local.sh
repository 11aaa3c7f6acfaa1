#!/usr/bin/env bash
# One machine, from nothing: install what is missing, then run.
#
#   bash cluster/local.sh setup    install only
#   bash cluster/local.sh demo     install, then the whole path on synthetic people, to a report
#   bash cluster/local.sh test     install, then the tests
#
# Debian 12 or Ubuntu with Python 3.11. Safe to run again: what is there is kept.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
pins="$root/cluster/requirements.txt"
debian_packages=(libopencv-dev libturbojpeg0-dev pkg-config g++ libgomp1)

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'local.sh: %s\n' "$*" >&2; exit 1; }

find_python() {
    local python
    for python in "${PYTHON:-}" python3.11 python3 python; do
        [ -n "$python" ] && command -v "$python" >/dev/null || continue
        if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    fail "Python 3.11 is needed (FFCV does not run on 3.12); install it, or name it: PYTHON=/path/to/python3.11 bash cluster/local.sh setup"
}

# FFCV is compiled here: it needs a compiler and the headers of OpenCV and libjpeg-turbo.
missing_system_packages() {
    local missing=()
    command -v g++ >/dev/null || missing+=(g++)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    if command -v pkg-config >/dev/null; then
        pkg-config --exists opencv4 || missing+=(libopencv-dev)
        pkg-config --exists libturbojpeg || missing+=(libturbojpeg0-dev)
    else
        missing+=(libopencv-dev libturbojpeg0-dev)
    fi
    if [ ! -f "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then
        missing+=(python3-dev)
    fi
    "$1" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    printf '%s\n' "${missing[@]+"${missing[@]}"}"
}

install_system_packages() {
    local missing apt=(apt-get)
    mapfile -t missing < <(missing_system_packages "$1" | sed '/^$/d')
    [ "${#missing[@]}" -gt 0 ] || return 0
    if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
        [ "$(id -u)" = 0 ] || apt=(sudo apt-get)
        say "System packages: ${missing[*]}"
        "${apt[@]}" update -qq
        DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y -qq --no-install-recommends \
            "${debian_packages[@]}" "${missing[@]}" >/dev/null
        return
    fi
    cat >&2 <<EOF
local.sh: these system packages are missing and this user may not install them: ${missing[*]}
  Debian, Ubuntu:  sudo apt-get install ${debian_packages[*]} ${missing[*]}
  conda:           conda install -c conda-forge python=3.11 opencv libjpeg-turbo pkg-config gxx
Install them, then run this command again; nothing else was changed.
EOF
    exit 1
}

# stage N of the pins: the lines between "# stage N" and the next stage
pins_of_stage() { awk -v n="$1" '/^# stage /{on = ($3 == n ":")} on && !/^#/ && NF' "$pins"; }

# Each finished stage leaves a stamp with the hash of its pins: a half-done install goes on there.
install_stage() {
    local stage="$1" what="$2" stamp hash
    shift 2
    stamp="$venv/.stage-$stage"
    hash="$(pins_of_stage "$stage" | sha256sum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ] && return
    say "Installing $what"
    pins_of_stage "$stage" >"$venv/stage.txt"
    sed '/^#/d; s/\[.*\]//' "$pins" >"$venv/constraints.txt" # a constraint may not name extras
    "$venv/bin/pip" install -q --disable-pip-version-check "$@" \
        -r "$venv/stage.txt" -c "$venv/constraints.txt"
    printf '%s\n' "$hash" >"$stamp"
}

setup() {
    local python stamp
    if [ ! -x "$venv/bin/python" ]; then
        python="$(find_python)"
        install_system_packages "$python"
        "$python" -m venv "$venv"
    else
        install_system_packages "$venv/bin/python"
    fi
    install_stage 1 "torch and xformers (about 3 GB; some minutes)"
    install_stage 2 "ray, timm, smplx, tensorboard and the rest"
    install_stage 3 "deepspeed and ffcv (compiled here)" --no-build-isolation
    stamp="$(cat "$root/setup.cfg" "$root/pyproject.toml" | sha256sum) $root"
    if [ "$(cat "$venv/.stage-project" 2>/dev/null)" != "$stamp" ]; then
        "$venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$root"
        printf '%s\n' "$stamp" >"$venv/.stage-project"
    fi
}

pipeline() { "$venv/bin/python" -m "pipelines.$1" "${@:2}"; }

demo() {
    pipeline prepare configs/data/demo.yaml
    pipeline study configs/study/demo.yaml
}

cd "$root"
case "${1:-}" in
    setup) setup; say "Installed. Next: bash cluster/local.sh demo" ;;
    demo) setup; demo ;;
    # a crash in C or C++, at the interpreter's end too, says where it was
    test) setup; PYTHONFAULTHANDLER=1 "$venv/bin/python" -m pytest "${@:2}" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
