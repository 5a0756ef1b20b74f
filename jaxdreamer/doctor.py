"""python -m jaxdreamer.doctor [--config=configs/toybox.py] [--parity]: what is installed, and what
a config would take.

Prints versions, devices, the weights that are shipped and the compile cache; with a config also the
size of its state and prior, and the memory, arithmetic and compile time of its step, which is
compiled but not run. Where a published model's weights are not here, it says what to put where, and
tells the rest from the model's shapes.

With --parity it runs each part of the config's published model once instead, by our networks and by
PyTorch's (pip install 'jaxdreamer[parity]'), and prints how far apart they are.
"""
import importlib.metadata
import json
import pathlib
import platform
import re
import shutil
import time

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from jaxdreamer import build, cli, fitting, layout, metrics, places, profiling, seeds, stages
from jaxdreamer.training import compiled, lowered
from jaxdreamer.weights import hub, model_shapes, parity

ASSETS = pathlib.Path(__file__).parent / 'assets'
# The newest that all tests have passed with: the one place that says so.
TESTED = {'python': '3.13', 'jax': '0.12.0.1', 'jaxlib': '0.12.0.1', 'flax': '0.12.12',
          'optax': '0.2.8',
          'orbax-checkpoint': '0.12.8', 'ml_collections': '1.1.0', 'numpy': '2.5.5',
          'scipy': '1.18.1', 'tensorstore': '0.1.86',
          'safetensors': '0.8.0', 'tokenizers': '0.23.3', 'trimesh': '5.2.0',
          'fast-simplification': '0.2.0', 'xatlas': '0.0.11',
          'scikit-image': '0.26.0', 'imageio-ffmpeg': '0.8.1'}


def version(package: str) -> str:
  """The installed version of a package, or 'missing'."""
  if package == 'python':
    return platform.python_version()
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'missing'


def newer(there: str, tested: str) -> bool:
  """Whether a version comes after another, by as many of its numbers as the other gives; '3.13.7'
  is of '3.13'."""
  numbers = lambda version: [int(n) for n in re.match(r'[\d.]*', version)[0].split('.') if n]
  wanted = numbers(tested)
  return numbers(there)[:len(wanted)] > wanted


def untested() -> dict[str, str]:
  """A row that names what is newer than TESTED; none where nothing is."""
  names = [f'{package} {version(package)} (to {tested})' for package, tested in TESTED.items()
           if newer(version(package), tested)]
  return {'newer than tested': ', '.join(names)} if names else {}


def device_line(device: jax.Device) -> str:
  """'NVIDIA H100 (gpu), 79.6 GiB': kind, platform and, where it is known, memory."""
  limit = (device.memory_stats() or {}).get('bytes_limit', 0)
  return f'{device.device_kind} ({device.platform})' + (f', {limit / metrics.GIB:.1f} GiB'
                                                        if limit else '')


def weights_line(path: pathlib.Path) -> str:
  """Size, tensors and data type, from the head of a safetensors file."""
  with path.open('rb') as file:
    head = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
  tensors = [value for name, value in head.items() if name != '__metadata__']
  kinds = ', '.join(sorted({value['dtype'] for value in tensors}))
  return f'{path.stat().st_size / 2 ** 20:.1f} MiB, {len(tensors)} tensors of {kinds}'


def size(tree) -> str:
  """'1.50 M numbers, 5.7 MiB' of a tree of arrays or of their shapes."""
  leaves = jax.tree.leaves(tree)
  nbytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
  return f'{sum(leaf.size for leaf in leaves) / 1e6:.2f} M numbers, {nbytes / 2 ** 20:.1f} MiB'


def shared(tree, mesh) -> dict[str, str]:
  """A row of what a device holds of state and prior, whose shapes these are, where devices share
  them."""
  if mesh.shape.get('model', 1) == 1:
    return {}
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  each = layout.bytes_each(tree)
  return {'a device holds': f'{each / 2 ** 20:.1f} of {whole / 2 ** 20:.1f} MiB of both '
          f'({each / whole:.2f}), shared along config.mesh.model'}


def installed() -> dict[str, str]:
  """Rows of what is here: packages, devices, weights and the cache of compiled programs."""
  rows = {'python': f'{platform.python_version()} on {platform.platform()}'}
  rows |= {package: version(package) for package in TESTED if package != 'python'} | untested()
  rows |= {f'device {device.id}': device_line(device) for device in jax.devices()}
  if jax.default_backend() == 'cpu' and shutil.which('nvidia-smi'):
    rows['note'] = ("an NVIDIA driver is here, but jax runs on the CPU: pip install "
                    "'jaxdreamer[cuda]', or [cuda12] for a driver "
                    'older than 580')
  for path in sorted(ASSETS.rglob('*.safetensors')):
    part = path.parent.relative_to(ASSETS).as_posix()        # of a model that is a folder
    rows[f'weights {path.name if part == "." else part}'] = weights_line(path)
  cache = pathlib.Path(cli.compile_cache())
  stored = sum(path.stat().st_size for path in cache.glob('*') if path.is_file())
  return rows | {'compile cache': f'{cache}, {stored / 2 ** 20:.0f} MiB'}


def process_peak(compiled: jax.stages.Compiled, here) -> int:
  """Bytes that this process comes to when it runs a program on its CPU, where the arrays of the
  tree `here` are in memory already:
  the program's, and what Python and compiled code hold. 0 where the system does not tell the
  latter."""
  held = metrics.process_memory()[0]
  loaded = sum(x.nbytes for x in jax.tree.leaves(here) if isinstance(x, jax.Array))
  return held and held + profiling.bytes_of(compiled) - loaded


def cost(config) -> dict[str, str]:
  """What the config's step takes; compiled from shapes alone."""
  mesh = build.make_mesh(config)
  begin = time.monotonic()
  training = build.training(config, mesh, abstract=True)
  built = time.monotonic() - begin
  begin = time.monotonic()
  programs, shapes = lowered(seeds.key(config.seed), training, mesh)
  made = compiled(programs)
  rows = {'mesh': f'{dict(mesh.shape)} by {config.mesh.map}', 'state': size(shapes[0]),
          'prior': size(shapes[1]), **shared(shapes[:2], mesh),
          'build': f'{built:.1f} s', 'compile': f'{time.monotonic() - begin:.1f} s',
          **{f'step {first} on': profiling.describe(step, training.steps_per_call)
             for first, step in made}}
  if jax.default_backend() == 'cpu':
    rows['this process'] = (
        f'at most {max(process_peak(s, training.prior) for _, s in made) / metrics.GIB:.1f} '
        'GiB')
  limit = min((device.memory_stats() or {}).get('bytes_limit', 0)
              for device in mesh.devices.flat) or metrics.free_memory()
  needs = max(profiling.bytes_of(step) for _, step in made)
  if 0 < limit < needs:
    rows['warning'] = (f'needs {needs / metrics.GIB:.1f} of {limit / metrics.GIB:.1f} GiB; '
                       f'{fitting.ways(config, mesh, training.prior)}')
  return rows


def cost_without_weights(config) -> dict[str, str]:
  """`cost`, by shapes alone where the config leads to no weights; then also what to put where."""
  try:
    return cost(config)
  except FileNotFoundError as error:
    if config.prior.path or config.prior.hub:
      raise
    config.prior.path = model_shapes.SHAPES
    return {'no weights': f'{error}; or --config.prior.hub, one of {sorted(hub.ALIASES)}, '
            'fetches some',
            'so': 'the following is of the published model, from its shapes', **cost(config)}


def show(rows: dict[str, str]):
  """Prints the rows as two columns."""
  out = Table.grid(padding=(0, 2))
  for row in rows.items():
    out.add_row(*row)
  Console(highlight=False, soft_wrap=True).print(out, markup=False)


def held_against_torch(config) -> dict[str, str]:
  """How far our networks are from PyTorch's with the weights of the config's prior."""
  path = places.weights_at(config.prior)
  if not path or path == model_shapes.SHAPES:
    raise ValueError('--parity compares a published model: give a config of one, and '
                     '--config.prior.path or --config.prior.hub')
  return {'parity of': path} | {part: str(said) for part, said in parity.rows(path).items()}


def main():
  """Shows what is installed and, with --config, what a run of it costs, or its --parity."""
  config, beside_torch = flags.FLAGS.config, flags.FLAGS.parity
  if beside_torch and config is None:
    cli.die('--parity takes a --config of a published model', status=cli.MISUSED)
  show(installed())
  if beside_torch:
    show(held_against_torch(config))
  elif config is not None:
    for name, stage in stages.of(config).items():
      show(({'stage': name} if name else {}) | cost_without_weights(stage))


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_bool('parity', False, 'Hold the weights of the config against PyTorch.')
  cli.run(main)
