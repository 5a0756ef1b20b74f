"""placeholder"""
import math
import re
from typing import NamedTuple

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
KINDS = 'all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all'


class Collective(NamedTuple):
  kind: str
  bytes: int                           # of its result on a device
  devices: int                         # that take part in it


def collectives(text):
  found = []
  for line in text.splitlines():
    match = re.search(rf'= (\(?[^=]*?) ({KINDS})(?:-start)?\((.*)', line)
    if match:
      of, kind, rest = match.groups()
      sizes = [BYTES[name] * math.prod(int(n) for n in shape.split(',') if n)
               for name, shape in re.findall(r'(\w+)\[([\d,]*)\]', of)]
      groups = re.search(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])', rest)
      members = groups[1].count(',') + 1 if groups[1] else int(groups[2])
      found.append(Collective(kind, sum(sizes), members))
  return found
