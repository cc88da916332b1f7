#!/usr/bin/env bash
# The install steps of the image: first everything in requirements.lock, checked against its hashes, then our own wheel.
# The Dockerfile runs them, and `make image-check` runs the same ones in a fresh environment.
#   jobs/install.sh PYTHON WHEEL [ARGUMENT OF UV, such as --dry-run …]
set -euo pipefail
python=$1 wheel=$2
shift 2
"$python" -m pip install --quiet --no-cache-dir uv==0.13.9
install() { "$python" -m uv pip install --system-certs --python "$python" --no-cache --quiet --no-deps "$@"; }
install --require-hashes --requirements requirements.lock "$@"
install "$wheel" "$@"
