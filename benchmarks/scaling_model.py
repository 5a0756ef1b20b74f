"""What a step should take on 1 to 4,096 devices, on paper: no figure here was measured on them.

    seconds = FLOPs / (UTILIZED * peak) + the mean of all gradients over devices

The mean is a ring's within a domain of fast links, then one over domains of what each device
holds of it: (n - 1) / n of the bytes leave each device twice, at REACHED of what its links carry
one way, with LATENCY for each doubling of the devices. Nothing overlaps, for the step
communicates once, at its end. FLOPs are XLA's own count of the step before it is optimized, bytes
those of parameters in float32; both come from the programs, not from these devices.
"""
import math
from typing import NamedTuple

UTILIZED = .4        # of the peak of bfloat16 matrices, over a whole step: an assumption
REACHED = .7         # of a link's rate: an assumption
LATENCY = {'within': 5e-6, 'across': 20e-6}      # seconds a doubling: an assumption


class Device(NamedTuple):
  """Rates a second, one way, of one device."""
  flops: float       # of dense bfloat16 matrices
  within: float      # bytes over the links of a domain
  domain: int        # devices that those links join
  across: float      # bytes to other domains


# TPUs by https://cloud.google.com/tpu/docs/v5e and https://cloud.google.com/tpu/docs/v5p: a chip's
# peak, interconnect of 400 and 1,200 GB/s both ways together, so half of it one way; data center
# network of 6.4 Tb/s to 256 v5e, 50 Gb/s to each v5p. A slice has up to 256 and 6,144 chips.
# GPUs by https://www.nvidia.com/en-us/data-center/h100/ and .../h200/: 1,979 TFLOPS with sparsity,
# half of it without, NVLink of 900 GB/s both ways; eight to a host, an adapter of 400 Gb/s each, as
# NVIDIA's entries to MLPerf have (https://github.com/mlcommons/inference_results_v4.1:
# closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json).
DEVICES = {
    'v5e': Device(197e12, 200e9, 256, 6.4e12 / 8 / 256),
    'v5p': Device(459e12, 600e9, 6144, 50e9 / 8),
    'H100': Device(989e12, 450e9, 8, 50e9),
    'H200': Device(989e12, 450e9, 8, 50e9),
}
COUNTS = tuple(2 ** i for i in range(13))


def mean_seconds(size, n, device):
  """Of a mean over n devices of `size` bytes, which each has."""
  near = min(n, device.domain)
  domains = -(-n // near)
  ring = lambda k, size, rate: 2 * (k - 1) / k * size / (REACHED * rate)
  waits = lambda k, each: 2 * math.ceil(math.log2(k)) * each if k > 1 else 0.
  return (ring(near, size, device.within) + waits(near, LATENCY['within'])
          + ring(domains, size / near, device.across) + waits(domains, LATENCY['across']))


def step(work, n, device):
  """The step of a workload on n devices: {'devices', 'busy', 'compute', 'mean', 'efficiency'},
  seconds, and the share of n devices' time that computes.

  A workload has 'flops' of one view, 'bytes' of gradients, 'views' of a step on one device, and
  'most', the views of a step that are shared out; above `most` devices each has one view more.
  """
  views = max(work['most'] / n, 1.) if work['most'] else work['views']
  compute = views * work['flops'] / (UTILIZED * device.flops)
  mean = mean_seconds(work['bytes'], n, device)
  return {'devices': n, 'views': views * n, 'compute': compute, 'mean': mean,
          'seconds': compute + mean, 'efficiency': compute / (compute + mean)}


def rows(works):
  """A row a workload and kind of device: milliseconds of a step and efficiency, by devices."""
  found = []
  for name, work in works.items():
    for kind, device in DEVICES.items():
      at = {n: step(work, n, device) for n in COUNTS}
      found.append({'work': name, 'kind': kind,
                    **{f'ms_{n}': 1000 * at[n]['seconds'] for n in (1, 64, 4096)},
                    **{f'efficiency_{n}': at[n]['efficiency'] for n in COUNTS[1:]}})
  return found


def plot(works, path):
  """Efficiency over devices, a panel a workload."""
  import matplotlib
  matplotlib.use('agg')
  from matplotlib import pyplot
  figure, panels = pyplot.subplots(1, len(works), figsize=(4 * len(works), 3.2), sharey=True,
                                   layout='constrained', squeeze=False)
  for panel, (name, work) in zip(panels[0], works.items()):
    for (kind, device), style in zip(DEVICES.items(), ('-', '--', '-', ':')):
      panel.plot(COUNTS, [step(work, n, device)['efficiency'] for n in COUNTS], style, label=kind,
                 linewidth=3 if kind == 'H100' else 1.8)
    panel.set(xscale='log', ylim=(0, 1.03), title=name, xlabel='devices')
    panel.set_xticks([1, 8, 64, 512, 4096], ['1', '8', '64', '512', '4096'])
    panel.minorticks_off()
    panel.grid(alpha=.3)
  panels[0][0].set_ylabel('share of the time that computes')
  panels[0][-1].legend(loc='lower left')
  figure.savefig(path, dpi=110)
  pyplot.close(figure)
