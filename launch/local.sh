#!/usr/bin/env bash
# From a fresh checkout to a 3D object, on this machine:   bash launch/local.sh --config.prompt='a red cube'
# All arguments go to `python -m jaxdreamer.train`; a relative --workdir is relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv ''
python -m jaxdreamer.train --config=configs/toybox.py "$@"
printf 'jaxdreamer: relative paths above are in %s\n' "$PWD"
