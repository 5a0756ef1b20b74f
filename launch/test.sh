#!/usr/bin/env bash
# Lint, types and all tests, the slow ones and the build of the docs too: 20 to 30 minutes on two cores, 5
# with -m 'not slow'. With --parity also the comparisons with PyTorch's classes as they run, for
# which torch, diffusers and transformers are installed; without it stored activations of theirs
# stand for them. The viewer's tests want a browser, chromium or Chrome, and skip where there is
# none. Other arguments go to pytest: bash launch/test.sh -k volume. There is no limit on the whole,
# so that a busy machine may take its time: pyproject.toml has one for each test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

extras='[test,docs,viewer]' first='' arguments=()
for argument in "$@"; do
  if [ "$argument" = --parity ]; then extras='[test,docs,viewer,parity]' first='torch==2.13.0'; else arguments+=("$argument"); fi
done
make_venv "$extras" "$first"
if [ -n "$first" ]; then python -c 'import torch, diffusers, transformers'; fi
status=0
ruff check . || status=1
if command -v pyright >/dev/null; then pyright || status=1; fi
python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15 ${arguments[@]+"${arguments[@]}"} </dev/null || status=$?
exit "$status"
