"""python -m jaxdreamer.export --workdir=... [--resolution=128 --formats=glb,obj,ply
                                               --faces=15000 --texture=1024
                                               --turntable --points]
python -m jaxdreamer.export --workdir=... --generator=FILE
python -m jaxdreamer.export --workdir=... --lora=FILE

Writes a run's outputs anew, at other sizes if asked: mesh.glb and mesh.obj, simplified and
textured, mesh.ply, with all its faces and colors on its vertices, mesh.json (facts) and mesh.png
(the mesh under the render), and on demand points.ply and the turntable. An
empty scene costs the mesh alone. It takes the scene alone: the prior's weights need not be here,
but for a generator of one prompt. Of a generator of many it writes one file, which
python -m jaxdreamer.generate --generator=FILE takes. Of a run by VSD it writes the LoRA, in
diffusers' layout, which `--config.prior.lora=FILE` and diffusers' pipelines take.
"""
import pathlib

import rich
from absl import flags

from jaxdreamer import cli, runs, workdirs
from jaxdreamer.options import place
from jaxdreamer.outputs import mesh, report, video
from jaxdreamer.weights import lora_files


def main() -> int:
  """Checks the options and writes the mesh of --workdir; the exit status."""
  cli.compile_cache()
  options = flags.FLAGS
  workdir = workdirs.newest_stage(place(options.workdir))
  folder = place(options.out) if options.out else workdir
  unknown = set(options.formats) - set(mesh.FORMATS)
  if unknown:
    cli.die(f'--formats: unknown {sorted(unknown)}; takes {", ".join(mesh.FORMATS)}',
            status=cli.MISUSED)
  if options.generator:
    return write_generator(workdir, place(options.generator))
  if options.lora:
    return write_lora(workdir, place(options.lora))
  cli.asset()
  with workdirs.writing(folder, workdir):
    return write(workdir, folder)


def write_generator(workdir: pathlib.Path, path: pathlib.Path) -> int:
  """Writes the generator of --workdir to one file. Returns the exit status."""
  if path.suffix != '.safetensors':
    cli.die(f'--generator={path}: takes the path of a .safetensors file', status=cli.MISUSED)
  restored = runs.restore(workdir, **cli.moved())
  if len(restored.model.prompts) == 1:
    cli.die(f'--generator: --workdir={workdir} holds one object, of {restored.model.prompts[0]!r}, '
            'and no generator', status=cli.MISUSED)
  path.parent.mkdir(parents=True, exist_ok=True)
  runs.save_generator(path, restored, workdirs.read_contents(workdir))
  print(f'{path}  step {restored.step}, {path.stat().st_size / 1e6:.1f} MB')
  return 0


def write_lora(workdir: pathlib.Path, path: pathlib.Path) -> int:
  """Writes what VSD added to the prior in --workdir to one file. Returns the exit status."""
  if path.suffix != '.safetensors':
    cli.die(f'--lora={path}: takes the path of a .safetensors file', status=cli.MISUSED)
  config = runs.read_config(workdir)
  if config.estimator.name != 'vsd':
    cli.die(f'--lora: --workdir={workdir} is a run by {config.estimator.name}, and vsd alone '
            'trains a LoRA', status=cli.MISUSED)
  _, _, state = runs.restore_state(workdir)
  path.parent.mkdir(parents=True, exist_ok=True)
  layers = lora_files.save(path, state.params['est'])
  print(f'{path}  step {int(state.step)}, {layers} layers')
  return 0


def write(workdir: pathlib.Path, folder: pathlib.Path) -> int:
  """Writes what the flags ask for. Returns the exit status."""
  options = flags.FLAGS
  _, model, params, _ = runs.restore(workdir, **cli.moved())
  if len(model.prompts) > 1:
    cli.die(f'--workdir={options.workdir} holds a generator of {len(model.prompts)} prompts: '
            'python -m jaxdreamer.generate makes their meshes, and --generator=FILE one file of it',
            status=cli.MISUSED)
  object = model.object(params, model.prompts[0])
  folder.mkdir(parents=True, exist_ok=True)
  status = 0
  try:
    _, facts = mesh.write(object, folder, resolution=options.resolution,
                          formats=tuple(options.formats), **cli.asset(),
                          points=options.num_points if options.points else 0)
    rich.print(facts)
  except mesh.Empty as error:
    print(error)
    status = cli.FAILED
  if options.turntable:
    for path in video.turntable(object.over(1.), folder, frames=options.frames,
                                height=options.height, distance=object.away, fov=object.fov):
      print(path)
  if (folder / 'report.json').exists():
    print(report.refresh(folder))
  return status


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'A run.', required=True)
  cli.moved_flags()
  flags.DEFINE_string('out', None, 'Where to write; the run itself if not given.')
  flags.DEFINE_string('generator', '', 'Write this .safetensors file alone: a generator of many '
                      'prompts, in float16.')
  flags.DEFINE_string('lora', '', 'Write this .safetensors file alone: the LoRA of a run by VSD, '
                      "in diffusers' layout.")
  flags.DEFINE_integer('resolution', 128, 'Nodes along a side of the density grid.', lower_bound=8,
                       upper_bound=512)
  cli.asset_flags(faces=15_000, texture=1024)
  flags.DEFINE_list('formats', list(mesh.FORMATS), 'Mesh files to write.')
  flags.DEFINE_bool('turntable', False, 'Also the film and its strip.')
  flags.DEFINE_integer('frames', 90, 'Frames of one turn, 30 a second.', lower_bound=1)
  flags.DEFINE_integer('height', 256, 'Height of the film in pixels; smaller renders are enlarged.',
                       lower_bound=16)
  flags.DEFINE_bool('points', False, 'Also points.ply, colored points spread evenly over the '
                    'surface.')
  flags.DEFINE_integer('num_points', 100_000, 'How many.', lower_bound=1)
  cli.run(main)
