"""A room that one stands in, scored against the truth:   python -m benchmarks.room [--quick]

configs/toybox_room.py, the perfect prior, as a user starts it; seconds are those of the process,
all outputs written. The run, with its panorama and its film, is kept under runs/benchmarks/room.
`measure` returns the figures; benchmarks/assets.py writes them.
"""
import argparse
import json
import shutil
import subprocess
import sys
import time

from benchmarks import results

WORKDIR = results.ROOT / 'runs' / 'benchmarks' / 'room'
QUICK = ('--config.steps=10',)


def measure(quick):
  """{'room_psnr', 'room_depth_pearson', ..., 'room_seconds'}; `quick`: of a few steps, which show
  that it runs."""
  shutil.rmtree(WORKDIR, ignore_errors=True)
  command = [sys.executable, '-m', 'jaxdreamer.train', '--config=configs/toybox_room.py',
             f'--workdir={WORKDIR}', *(QUICK if quick else ())]
  begin = time.monotonic()
  subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
  seconds = time.monotonic() - begin
  scores = json.loads((WORKDIR / 'scores.json').read_text())['scores']
  mesh = json.loads((WORKDIR / 'mesh.json').read_text())
  return scores | {'room_mesh_depth_error': mesh['depth_error'], 'room_seconds': seconds}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--quick', action='store_true', help='few steps')
  print(json.dumps(measure(parser.parse_args().quick), indent=1))


if __name__ == '__main__':
  main()
