"""DPT-Hybrid in one safetensors file: the key layout of its authors' code (Ranftl et al. 2021), in
which MiDaS 3.0 (dpt_hybrid) and Omnidata (Eftekhar et al. 2021; dpt_depth_v2, dpt_normal_v2) were
published. Its vision transformer is named as timm's vit_base_r50_s16_384, its decoder as MiDaS's;
Omnidata's training code put `model.` before every key.
"""
import os

from jaxdreamer.nn import dpt
from jaxdreamer.weights import tensor_files

MIDAS_RENAME = (
    (r'^model\.(pretrained|scratch)\.', r'\1.'),
    (r'^pretrained\.model\.head\.', None),  # the classifier that the transformer was trained with
    (r'^pretrained\.model\.cls_token$', 'dpt.embeddings.cls_token'),
    (r'^pretrained\.model\.pos_embed$', 'dpt.embeddings.position_embeddings'),
    (r'^pretrained\.model\.patch_embed\.proj\.', 'dpt.embeddings.projection.'),
    (r'^pretrained\.model\.patch_embed\.backbone\.stem\.conv\.',
     'dpt.embeddings.backbone.bit.embedder.convolution.'),
    (r'^pretrained\.model\.patch_embed\.backbone\.stem\.norm\.',
     'dpt.embeddings.backbone.bit.embedder.norm.'),
    (r'^pretrained\.model\.patch_embed\.backbone\.stages\.(\d+)\.blocks\.',
     r'dpt.embeddings.backbone.bit.encoder.stages.\1.layers.'),
    (r'^pretrained\.model\.norm\.', 'dpt.layernorm.'),
    (r'^pretrained\.model\.blocks\.', 'dpt.encoder.layer.'),
    *((rf'^(dpt\.encoder\.layer\.\d+)\.{old}\.', rf'\1.{new}.') for old, new in (
        ('norm1', 'layernorm_before'), ('norm2', 'layernorm_after'),
        (r'attn\.proj', 'attention.output.dense'),
        (r'mlp\.fc1', 'intermediate.dense'), (r'mlp\.fc2', 'output.dense'))),
    (r'\.attn\.qkv\.', tuple(f'.attention.attention.{name}.'
                             for name in ('query', 'key', 'value'))),
    *((rf'^pretrained\.act_postprocess{i + 1}\.{old}\.', f'neck.reassemble_stage.{new}.')
      for i in (2, 3) for old, new in ((r'0\.project\.0', f'readout_projects.{i}.0'),
                                       ('3', f'layers.{i}.projection'),
                                       ('4', f'layers.{i}.resize'))),
    *((rf'^scratch\.layer{i + 1}_rn\.', f'neck.convs.{i}.') for i in range(4)),
    *((rf'^scratch\.refinenet{4 - i}\.', f'neck.fusion_stage.layers.{i}.') for i in range(4)),
    (r'\.resConfUnit([12])\.conv([12])\.', r'.residual_layer\1.convolution\2.'),
    (r'\.out_conv\.', '.projection.'),
    (r'^scratch\.output_conv\.', 'head.head.'))
LAST = 'scratch.output_conv.4.weight'


def config(path: str | os.PathLike) -> dpt.DPTConfig:
  """The config that belongs to a file: what is not told by its head is timm's. ValueError for a
  file without that head."""
  with tensor_files.opened(path) as file:
    head = next((entry.shape for key, entry in file.entries.items() if key.removeprefix('model.')
                 == LAST), None)
  if head is None or len(head) != 4:
    raise ValueError(f'{os.fspath(path)} is no DPT-Hybrid of MiDaS or Omnidata: its {LAST!r} is '
                     f'{head or "missing"}; for one of '
                     'transformers give the folder, with config.json')
  return dpt.DPTConfig(head_channels=head[0], layer_norm_eps=1e-6)
