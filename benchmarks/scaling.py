"""Many devices:   python -m benchmarks.scaling [--quick]

Measured here, each case in a process of its own, on forced CPU devices that share this machine's
cores, so that seconds say nothing and counts all:
- a run of a small scene on 1, 2, 4 and 8 devices of one process and on 4 of two: what its
  compiled step says between devices, as CPUs have it and as accelerators have it (CPUs add in a
  fixed order, see parallel.py), and how far its parameters are from one device's after 50 steps;
- what a device holds of Stable Diffusion 1.5's step when four share its weights, by the compiler;
- configs/toybox.py: the share of wall time that checkpoints take every 100 steps, and seconds
  from the start of a resumed run to its first step, with a warm compile cache.
On paper, from XLA's count of arithmetic and bytes in the programs: 1 to 4,096 accelerators
(scaling_model.py). Writes benchmarks/results/scaling.json and scaling.png; --only=PART measures a
part anew; --quick takes two devices and two steps, and writes nothing.
"""
import argparse
import json
import math
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from benchmarks import results, scaling_model

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
KINDS = 'all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all'
CASES = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2))                    # devices in all, processes
# compiles soon. At Adam's usual eps the last digit of a gradient that is almost zero makes a whole
# step, and no two sums agree for long
TINY = {'prior.name': 'benchmarks.scaling:grey', 'render.background': 'white', 'sampling.views': 8,
        'render.samples': 8, 'render.fine': 0, 'scene.name': 'voxels',
        'scene.voxels.levels': (6, 11), 'optim.eps': 1e-3}
STEPS = 50
MIB = 2 ** 20
# for a program that is compiled to be looked at, not run
SOON = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}


class Collective(NamedTuple):
  """One operation of a compiled program that devices do together."""
  kind: str
  bytes: int                           # of its result on a device
  devices: int                         # that take part in it


def members(text):
  """The devices of a group of a collective, which HLO lists, counts, or names by axes of a mesh."""
  if named := re.search(r'replica_groups=mesh\[(.*?)\].*?\{(.*?)\}', text):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
  groups = re.search(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])', text)
  return groups[1].count(',') + 1 if groups[1] else int(groups[2])


def collectives(text):
  """The Collectives in the text of a compiled program that more than one device take part in."""
  found = []
  for line in text.splitlines():
    match = re.search(rf'= (\(?[^=]*?) ({KINDS})(?:-start)?\((.*)', line)
    if match:
      of, kind, rest = match.groups()
      sizes = [BYTES[name] * math.prod(int(n) for n in shape.split(',') if n)
               for name, shape in re.findall(r'(\w+)\[([\d,]*)\]', of)]
      found.append(Collective(kind, sum(sizes), members(rest)))
  return [one for one in found if one.devices > 1]


def grey(key, prompt, path):
  """A prior that knows one color."""
  import jax.numpy as jnp

  from jaxdreamer.priors.gaussian import gaussian
  return gaussian(jnp.full((16, 16, 3), .5), std=.3)


def configured(make, **options):
  """A config with these options."""
  config = make.get_config()
  with config.unlocked():
    config.update_from_flattened_dict(options)
  return config


def devices(out, steps):
  """A case of CASES: parameters after `steps` to the file `out`, and what its program says."""
  import jax
  import numpy as np

  from jaxdreamer import build, processes, seeds, training
  from jaxdreamer.configs import toybox
  config = configured(toybox, **TINY)
  mesh = build.make_mesh(config)

  def compiled():
    made = build.training(config, mesh)
    return made, training.lowered(seeds.key(0), made, mesh)[0][0][1].compile()
  made, program = compiled()
  said = {'cpu': collectives(program.as_text())}
  state = processes.place(made.init(seeds.key(0)), mesh)
  prior, text, seconds = processes.place(made.prior, mesh), made.text(0), []
  for _ in range(steps):
    begin = time.perf_counter()
    state, _ = jax.block_until_ready(program(state, prior, text))
    seconds.append(time.perf_counter() - begin)
  processes.on_cpus = lambda mesh: False
  said['accelerator'] = collectives(compiled()[1].as_text())
  params = processes.on_one_device(state.params)
  if processes.first():
    np.save(out, np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)]))
  return {'step_seconds': statistics.median(seconds[1:]), 'said': said,
          'parameters': sum(x.size for x in jax.tree.leaves(params))}


def shapes_of_sd15():
  """Where a config of Stable Diffusion 2.1 is given by its shapes alone, 1.5's."""
  from jaxdreamer.weights import model_shapes
  model_shapes.MODELS['sd21-base'] = model_shapes.MODELS['sd15']
  return model_shapes.SHAPES


def shared(model):
  """Bytes that a device takes as arguments of dreamfusion_sd's step with Stable Diffusion 1.5,
  `model` devices sharing its arrays; and the compiler's whole count."""
  from jaxdreamer import build, profiling, seeds, training
  from jaxdreamer.configs import dreamfusion_sd
  config = configured(dreamfusion_sd, **{
      'prior.path': shapes_of_sd15(), 'mesh.data': 1, 'mesh.model': model, 'steps_per_call': 1,
      'sampling.views': 4, 'render.samples': 8, 'render.fine': 0, 'render.stages': ((0, 64),)})
  mesh = build.make_mesh(config)
  made = build.training(config, mesh, abstract=True)
  program = training.lowered(seeds.key(0), made, mesh)[0][0][1].compile()
  return {'arguments': program.memory_analysis().argument_size_in_bytes,
          'all': profiling.bytes_of(program)}


def work(name):
  """{'flops' of a view, 'bytes' of gradients} of a published step, by its shapes."""
  import jax

  from jaxdreamer import build, seeds, training
  from jaxdreamer.configs import dreamfusion_sd, scaledreamer_amortised
  with tempfile.TemporaryDirectory() as folder:
    corpus = pathlib.Path(folder) / 'corpus.txt'
    corpus.write_text('a red mug\na blue car\n')
    own = {'prior.path': 'shapes', 'mesh.data': 1, 'steps_per_call': 1, 'render.chunk': 0}
    if name == 'sd15':
      config = configured(dreamfusion_sd, **own | {'sampling.views': 1, 'prior.path':
                                                   shapes_of_sd15()})
    else:
      config = scaledreamer_amortised.get_config(f'{name},1')
      config.update_from_flattened_dict(own | {'corpus.path': str(corpus)})
    mesh = build.make_mesh(config)
    made = build.training(config, mesh, abstract=True)
    programs, (state, *_) = training.lowered(seeds.key(0), made, mesh)
    return {'flops': programs[-1][1].cost_analysis()['flops'],
            'bytes': 4 * sum(x.size for x in jax.tree.leaves(state.params)),
            'views': config.sampling.views}


PARTS = {'devices': devices, 'shared': shared, 'work': work}


def start(part, *args, count=1, environment=None):
  """The process of a part, with `count` CPU devices."""
  known = {name: value for name, value in os.environ.items()
           if not name.startswith(('SLURM_', 'JAX_NUM_', 'JAX_PROCESS'))}
  return subprocess.Popen((sys.executable, '-m', 'benchmarks.scaling', '--part', part,
                           json.dumps(args)), cwd=results.ROOT, stdout=subprocess.PIPE, text=True,
                          env=known | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(count)}
                          | (environment or {}))


def found(*processes):
  """What the first of them says, once all have ended."""
  said = [process.communicate()[0] for process in processes]
  if bad := [process.returncode for process in processes if process.returncode]:
    sys.exit(f'benchmarks.scaling: a part ended with {bad[0]}')
  figures = json.loads(said[0].splitlines()[-1])
  print(json.dumps(figures), flush=True)
  return figures


def case(folder, count, hosts, *, steps):
  """A row of a case, and its parameters."""
  import numpy as np
  out = str(folder / f'{count}-{hosts}.npy')
  with socket.socket() as probe:
    probe.bind(('', 0))
    port = probe.getsockname()[1]
  where = lambda i: {'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_PROCESS_ID': str(i),
                     'JAX_NUM_PROCESSES': str(hosts)} if hosts > 1 else {}
  figures = found(*(start('devices', out, steps, count=count // hosts, environment=where(i))
                    for i in range(hosts)))
  said = {kind: [Collective(*one) for one in ones] for kind, ones in figures['said'].items()}
  row = {'devices': count, 'processes': hosts, 'step_seconds': figures['step_seconds'],
         'parameters': figures['parameters'],
         **{f'collectives_{kind}': len(ones) for kind, ones in said.items()},
         **{f'bytes_{kind}': sum(one.bytes for one in ones) for kind, ones in said.items()}}
  return row, np.load(out)


def apart(one, other):
  """The largest difference of parameters, over the largest parameter."""
  return float(abs(one - other).max() / abs(one).max())


def compared(folder, cases, *, steps):
  """Rows of the cases, what a step says at most, and the largest difference from one device."""
  runs = [case(folder, *of, steps=steps) for of in cases]
  rows = [row | {'difference': apart(runs[0][1], params)} for row, params in runs]
  return {'rows': rows,
          'collectives_per_step': max(row['collectives_accelerator'] for row in rows),
          'device_count_max_relative_difference': max(row['difference'] for row in rows)}


def trained(folder, options, until):
  """Trains by the shell until a line begins with `until`; (seconds to it, the process)."""
  begin = time.perf_counter()
  process = subprocess.Popen(
      (sys.executable, '-m', 'jaxdreamer.train', '--config=configs/toybox.py',
       f'--workdir={folder}', *(f'--config.{name}={value}' for name, value in options.items())),
      cwd=results.ROOT, stdout=subprocess.PIPE, text=True)
  for line in process.stdout:
    if line.startswith(until):
      return time.perf_counter() - begin, process
  sys.exit(f'benchmarks.scaling: no line {until!r} of {folder}')


def saved(folder, *, steps, every):
  """What checkpoints cost a run of the toybox, and how long it takes to go on."""
  options = {'steps': steps + 1000, 'checkpoint_every': every, 'preview_every': 0, 'log_every': 1}
  _, process = trained(folder, options, f'step {steps}/')
  process.send_signal(signal.SIGTERM)            # the step ends, is saved, and no outputs are made
  process.stdout.read()
  process.wait()
  # the last row is of the step after `steps`, whose checkpoint is counted by then
  parts = json.loads((folder / 'timing.jsonl').read_text().splitlines()[-1])['seconds']
  resumed = []
  for _ in range(2):
    seconds, process = trained(folder, options, 'step ')
    resumed.append(seconds)
    process.kill()
    process.wait()
  return {'checkpoint_overhead': parts['checkpoints'] / (parts['checkpoints'] + parts['steps']),
          'checkpoint_steps': steps, 'checkpoint_every': every,
          'resume_to_first_step_seconds': resumed[-1]}


def held():
  """What a device holds of Stable Diffusion 1.5's step, alone and as one of four."""
  one, four = (found(start('shared', n, count=n, environment=SOON))['arguments'] for n in (1, 4))
  return {'sd15_mib': one / MIB, 'sd15_mib_of_four': four / MIB, 'sd15_share_of_four': four / one}


def on_paper():
  """The workloads of the model, what it says of them, and its plot."""
  one, many, large = (found(start('work', name)) for name in ('sd15', 'df415', 'cp100k'))
  works = {'one prompt, a view a device': one | {'most': 0},
           'generator, 64 prompts a step': many | {'most': 64},
           'CP100k, a prompt a device': large | {'most': 0}}
  scaling_model.plot(works, results.RESULTS / 'scaling.png')
  return {'works': works, 'model': scaling_model.rows(works), 'assumed': {
      'utilized': scaling_model.UTILIZED, 'reached': scaling_model.REACHED,
      'latency': scaling_model.LATENCY},
      'links': {name: device._asdict() for name, device in scaling_model.DEVICES.items()}}


def measured(folder):
  """{name: what measures these figures}."""
  return {'devices': lambda: compared(folder, CASES, steps=STEPS),
          'checkpoints': lambda: saved(folder / 'run', steps=200, every=100),
          'shares': held, 'paper': on_paper}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='two devices and steps; writes nothing')
  parser.add_argument('--only', choices=measured(None), help='measures this anew, keeps the rest')
  parser.add_argument('--part', nargs=2, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.part:
    if int(os.environ.get('JAX_NUM_PROCESSES', '1')) > 1:
      from jaxdreamer import rendezvous
      rendezvous.join(coordinator='', processes=0, process=-1, wait=300., run={})
    part, args = options.part
    print(json.dumps(PARTS[part](*json.loads(args))))
    return
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    if options.quick:
      print(json.dumps(compared(folder, ((1, 1), (2, 1)), steps=2)))
      return
    figures = results.read('scaling') if options.only else {}
    for name, measure in measured(folder).items():
      if options.only in (None, name):
        figures |= measure()
  print(results.write('scaling', figures, 'python -m benchmarks.scaling'))


if __name__ == '__main__':
  main()
