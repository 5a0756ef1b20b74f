"""python -P unpickle.py OUT.safetensors IN.bin [IN-2.bin ...]: the tensors of checkpoints that
torch pickled, under their own keys, as one safetensors file.

This is a process of its own, so that whatever a pickle does to it is done to nothing else. Nothing
but weights is built: torch.load(weights_only=True) knows tensors and containers, and refuses every
other class or function before it is called. Training frameworks leave classes of theirs beside
the weights; their names stand for an empty class here, and whatever is no tensor is left out. It
ends when its standard input does, as that does with the process that started it, and says what is
wrong in the last line of standard error.
"""
import os
import re
import sys
import threading

import safetensors.torch
import torch

FRAMEWORKS = re.compile(r'(pytorch_lightning|lightning|lightning_fabric)(\.\w+)+')
OLDEST = 2, 10                          # before it weights_only=True had holes (CVE-2026-24747)
# what its tensors may take, in sizes of the file: views of one storage count each
MOST, SLACK = 4, 2 ** 20


class Left:
  """Stands for a class of a training framework, and holds nothing."""

  def __init__(self, *_):
    pass

  def __setstate__(self, state):
    pass


def end_with_parent():
  """Ends this process where standard input ends."""
  while os.read(0, 1):
    pass
  os._exit(1)


def tensors_of(path: str) -> dict[str, torch.Tensor]:
  """{key: tensor} of one checkpoint, contiguous copies. ValueError where there are none, or more
  than the file holds."""
  with open(path, 'rb') as file:
    zipped = file.read(4) == b'PK\3\4'                   # as torch.save writes since 1.6
  if zipped:
    theirs = [name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)
              if FRAMEWORKS.fullmatch(name)]
    torch.serialization.add_safe_globals([(Left, name) for name in theirs])
  held = torch.load(path, map_location='cpu', weights_only=True, mmap=zipped or None)
  for name in ('state_dict', ''):
    held = held.get(name, held) if isinstance(held, dict) else {}
  found = {key: value for key, value in held.items()
           if isinstance(key, str) and isinstance(value, torch.Tensor)}
  if not found:
    raise ValueError('it holds no table of tensors')
  size = sum(value.numel() * value.element_size() for value in found.values())
  if size > MOST * os.path.getsize(path) + SLACK:
    raise ValueError(f'its tensors would take {size} bytes, many times its own size')
  return {key: value.detach().clone(memory_format=torch.contiguous_format)
          for key, value in found.items()}


def main(out: str, *paths: str) -> int:
  """Writes `out` from the checkpoints at `paths`, the parts of one model; the exit status."""
  threading.Thread(target=end_with_parent, daemon=True).start()
  try:
    if tuple(map(int, torch.__version__.split('.')[:2])) < OLDEST:
      raise ValueError(f'torch {torch.__version__} may run what a pickle says: take 2.10 or newer')
    found = {}
    for path in paths:
      found |= tensors_of(path)
    safetensors.torch.save_file(found, out)
  except Exception as error:                             # torch raises of every kind
    lines = (str(error).strip() or type(error).__name__).splitlines()
    refused = [f'it holds more than weights, and is refused: {line}' for line in lines
               if 'nsupported' in line]                  # among lines of advice to trust the file
    print(' '.join((refused or lines)[0].split())[:400], file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
