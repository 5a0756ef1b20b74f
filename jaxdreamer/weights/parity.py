"""A user's own checkpoint by our networks and by the classes of diffusers and transformers: one
pass of each part in float32, on the same random inputs.

    rows('path/to/folder')    # {'unet': Difference(...), 'vae encode': ..., ...}

Torch runs in a process of its own (torch_side/forward.py). A LoRA is not part of it. ValueError,
one line, for what cannot be compared.
"""
import os
import pathlib
import re
import tempfile
from typing import Any, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.weights import hub, multiview, networks, safe_files, torch_worker
from jaxdreamer.weights.diffusers_folder import INDEX, Part, load_part, open_model

TIMES = {'unet': 4, 'vae': 32}           # 32 latents and 256 pixels a side of Stable Diffusion
SECONDS = 900.
NEEDS = 'torch', 'diffusers', 'transformers'
TIME, LATENT = 500., 'latent'            # of a thousand; what a decoder takes


class Difference(NamedTuple):
  """The largest difference of two outputs, and the largest value of theirs."""
  largest: float
  scale: float

  def __str__(self) -> str:
    share = self.largest / (self.scale or 1.)
    return f'{self.largest:.2e} at most, {share:.2e} of the largest value'


def rows(path: str | os.PathLike) -> dict[str, Difference]:
  """{part: Difference} of the folder of a model at `path`."""
  folder = pathlib.Path(path)
  if folder.is_file():
    raise ValueError(f'--parity: {folder} is one file, which diffusers reads by configs of the '
                     f'hub: python -m jaxdreamer.convert --from={folder} --to=FOLDER makes a '
                     'folder of it, which can be compared')
  parts = {name: part for name, part in open_model(folder).items() if isinstance(part, Part)}
  if safe_files.read_json(folder / INDEX).get('unet', [''])[-1] == multiview.CLASS:
    raise ValueError(f'--parity: {folder} has a UNet of a class that diffusers lacks: '
                     f'python -m jaxdreamer.convert --from={folder} --to=FOLDER makes a '
                     'folder of it, which can be compared')
  inputs = {name: inputs_of(name, part.config) for name, part in parts.items()}
  with tempfile.TemporaryDirectory() as home:
    given, out = pathlib.Path(home, 'in.npz'), pathlib.Path(home, 'out.npz')
    told = {f'{name}/{key}': value for name, mine in inputs.items() for key, value in mine.items()}
    np.savez(given, **told, **{f'{name}/variant': variant_of(part.file, hub.NETWORKS[name])
                               for name, part in parts.items()})
    torch_worker.run('forward', folder.resolve(), given, out, seconds=SECONDS, extra='parity',
                     needs=NEEDS, what='--parity')
    theirs = dict(np.load(out))
  return {key.replace('/', ' '): difference(ours, theirs[key]) for name, part in parts.items()
          for key, ours in outputs(name, part, inputs[name])}


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
  """Of two outputs, element by element."""
  return Difference(float(np.abs(ours - theirs).max()), float(np.abs(theirs).max()))


def variant_of(file: pathlib.Path, stem: str) -> str:
  """'fp16' of diffusion_pytorch_model.fp16.safetensors or of its index; '' of the plain name."""
  mark = file.name.removeprefix(stem).replace('.safetensors', '').replace('.index', '')
  return re.sub(r'\.json$', '', mark).strip('.')


def inputs_of(name: str, config: dict) -> dict[str, np.ndarray]:
  """Random inputs of a part, by the names that forward.py gives them; words of every kind of
  token."""
  noise = np.random.RandomState(0)
  network = networks.network(name, config, times=TIMES.get(name, 1))
  normal = lambda shape: noise.standard_normal(shape.shape).astype(np.float32)
  if name in networks.TOWERS:
    tokens = noise.randint(0, network.module.config.vocab_size, network.inputs[0].shape)
    return {'tokens': tokens.astype(np.int32)}
  if name == 'vae':
    wired, (_, height, width, _) = network.module.config, network.inputs[0].shape
    factor = 2 ** (len(wired.block_out_channels) - 1)
    latent = jax.ShapeDtypeStruct((1, height // factor, width // factor, wired.latent_channels),
                                  np.float32)
    return {'image': np.tanh(normal(network.inputs[0])), LATENT: normal(latent)}
  arrays = dict(zip(('sample', 'timesteps', 'words', 'class_labels'), network.inputs))
  found = {key: normal(shape) for key, shape in (arrays | network.named).items()}
  return found | {'timesteps': np.array([TIME], np.float32)}


def outputs(name: str, part: Part, x: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  """('part' or 'part/output', ours), as forward.py names them."""
  network = networks.network(name, part.config, times=TIMES.get(name, 1))
  params = load_part(part, network.like(), dtype=jnp.float32)

  def call(*inputs, method=None, **named) -> Any:
    apply = jax.jit(lambda params, inputs, named: network.module.apply(
        {'params': params}, *inputs, **named, method=method))
    with jax.default_matmul_precision('highest'):        # a GPU's own choice is no float32
      out = apply(params, *jax.tree.map(jnp.asarray, (inputs, named)))
    return jax.tree.map(np.asarray, out)

  if name == 'vae':
    yield 'vae/encode', call(x['image'], method='encode').mean
    yield 'vae/decode', call(x[LATENT], method='decode')
  elif name in networks.TOWERS:
    first, *_, penultimate = call(x['tokens'])
    yield name, first
    yield f'{name}/penultimate', penultimate
  else:
    told = {key: x[key] for key in network.named}
    yield 'unet', call(*(x[key] for key in x if key not in told), **told)
