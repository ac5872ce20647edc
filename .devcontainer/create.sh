#!/usr/bin/env bash
# What a new dev container gets: the environment in .venv and the small models. Without an NVIDIA GPU the CPU build of
# torch comes first, which saves gigabytes; where its index cannot be reached, make takes the ordinary build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v nvidia-smi >/dev/null && [ ! -x .venv/bin/python ]; then
    python3 -m venv .venv
    .venv/bin/pip install -q --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" ||
        echo "The CPU build of torch could not be fetched: the ordinary one follows"
fi
make build
