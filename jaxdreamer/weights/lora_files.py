"""A LoRA that VSD learnt as a file beside a model, in diffusers' layout, which its pipelines and
loras.py read:

    lora_files.save('style.safetensors', est)

Matrices alone: what a run learnt of how cameras enter, nn/lora.cameras, is no part of a published
model, and is left out.
"""
import os

import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save_file

from jaxdreamer import files
from jaxdreamer.weights import safetensors_io


def tensors(small: PyTree) -> dict[str, np.ndarray]:
  """{published key: tensor} of a LoRA of nn/lora.py: 'unet.….to_q.lora_A.weight' [rank, in] and
  'lora_B' [out, rank], of convolutions [rank, in, h, w] and [out, rank, 1, 1]; they are added as
  they are, for without an alpha the rank stands for it."""
  found = {}
  for path, entry in small.items():
    if 'down' not in entry:
      continue
    layer = safetensors_io.key_of(tuple(path.split('/'))).removesuffix('.weight')
    down, up = (np.asarray(entry[part], np.float32) for part in ('down', 'up'))
    if down.ndim == 4:
      down, up = down.transpose(3, 2, 0, 1), up.T[..., None, None]
    else:
      down, up = down.T, up.T
    found |= {f'{layer}.lora_A.weight': np.ascontiguousarray(down),
              f'{layer}.lora_B.weight': np.ascontiguousarray(up)}
  return found


def save(path: str | os.PathLike, small: PyTree) -> int:
  """Writes the file, whole or not at all; how many layers it changes. ValueError where there is
  none to change."""
  found = tensors(small)
  if not found:
    raise ValueError('there is no LoRA of matrices to write')
  with files.whole(os.fspath(path)) as draft:
    save_file(found, draft, metadata={'format': 'pt'})
  return len(found) // 2
