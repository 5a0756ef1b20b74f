r"""python -m jaxdreamer.train --config=configs/toybox.py \
    --config.prompt="a red cube" [--workdir=runs/cube]

Text -> 3D. Writes checkpoints, metrics, previews, a film, a mesh, scores and report.html into the
workdir, and goes on by itself where an earlier start of the same command was stopped or killed.
Leaves with status 0 when the object is made, 1 on an error or a failed output, 2 on a wrong command
line, 75 when it was told to stop and can be started again.
"""
import pathlib
import re
import shlex
import sys

from absl import flags

from jaxdreamer import build, cli, options, places, processes, rendezvous, stages, workdirs
from jaxdreamer.signals import SIGNALS


def default_workdir(config) -> pathlib.Path:
  """runs/a-red-cube-1a2b3c4d: the same for the same run, however long its prompt."""
  slug = re.sub(r'[^a-z0-9]+', '-', (config.corpus.path or config.prompt).lower()).strip('-')[
      :40].rstrip('-')
  run = workdirs.fingerprint(config.to_dict(),
                             contents=places.contents(options.expanded(config)))
  return pathlib.Path('runs') / f'{slug or "run"}-{run[:8]}'


def main() -> int:
  """Trains what --config says, or goes on with the run in --workdir; the exit status."""
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  if config is None:
    raise ValueError('give a config: --config=configs/toybox.py')
  if config.mesh.distributed or config.mesh.coordinator:
    own = ('mesh.coordinator', 'mesh.process', 'mesh.wait')
    alike = {name: value for name, value in workdirs.flatten(config.to_dict()).items()
             if name not in own}
    rendezvous.join(coordinator=config.mesh.coordinator, processes=config.mesh.processes,
                    process=config.mesh.process, wait=config.mesh.wait, run=alike)
  cli.compile_cache()
  folder = options.place(workdir) if workdir else default_workdir(config)
  with processes.one_for_all():
    mesh = build.make_mesh(config)
    if (said := options.idle(config, mesh)) and processes.first():
      print(f'warning: {said}', flush=True)
    outcome = stages.run(config, folder, mesh,
                         command=shlex.join(['python', '-m', 'jaxdreamer.train', *sys.argv[1:]]))
  if outcome.why in SIGNALS:
    return cli.STOPPED
  if processes.first():
    print(f'{folder}/report.html')
  return cli.FAILED if outcome.failed else 0


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('workdir', None, 'Where the run lives; runs/PROMPT-HASH if not given.')
  cli.run(main)
