#!/usr/bin/env bash
# Lint and all tests, the slow ones and the comparisons with PyTorch too: 15 minutes on two cores, stopped after 45.
# Arguments go to pytest:   bash launch/test.sh -k volume
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${JAXDREAMER_TIMED:-}" ] && command -v timeout >/dev/null; then
  exec env JAXDREAMER_TIMED=1 timeout --kill-after=30 2700 bash launch/test.sh "$@" </dev/null
fi
source launch/venv.sh

make_venv '[test,parity]' 'torch==2.13.0'
status=0
ruff check . || status=1
python -m pytest -q -n 2 --dist loadfile --durations=15 "$@" || status=$?
exit "$status"
