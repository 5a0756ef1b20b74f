#!/usr/bin/env bash
# bash launch/tpu/tpu_vm.sh NAME ZONE --config=configs/toybox.py --workdir=/mnt/shared/runs/cube --config.prompt='a red cube'
# Copies this checkout to every worker of the TPU VM, installs it there, and starts one process on each; JAX finds the others.
set -euo pipefail
if [ "$#" -lt 3 ]; then sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; fi
name=$1 zone=$2
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

on_all() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

archive=$(mktemp -d)/jaxdreamer.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:jaxdreamer.tar.gz" --zone="$zone" --worker=all
on_all 'set -e; mkdir -p jaxdreamer; tar -xzf jaxdreamer.tar.gz -C jaxdreamer; cd jaxdreamer
  python3 -m venv .venv; .venv/bin/python -m pip install --quiet --editable ".[tpu]"'
on_all "cd jaxdreamer && .venv/bin/python -m jaxdreamer.train --config.mesh.distributed=True $(printf '%q ' "$@")"
