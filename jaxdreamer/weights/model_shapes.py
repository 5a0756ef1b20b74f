"""Published models as their configs alone: for what a step with them would take, on a machine that
has no weights.

    parts('sdxl')    # as diffusers_folder.open_model's, but no part has a file: load_part gives
                     # shapes in place of arrays
"""
import dataclasses

from jaxdreamer.nn import mvdream
from jaxdreamer.nn.unet_config import UNetConfig
from jaxdreamer.weights.diffusers_folder import Part
from jaxdreamer.weights.single_file import SCHEDULER

SD21 = dataclasses.replace(mvdream.CONFIG, class_embed_type=None,
                           projection_class_embeddings_input_dim=None)
XL = UNetConfig(block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
                down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
                up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
                attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10),
                use_linear_projection=True,
                addition_embed_type='text_time', addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816)
VAE = {'block_out_channels': (128, 256, 512, 512), 'layers_per_block': 2, 'latent_channels': 4,
       'down_block_types': ('DownEncoderBlock2D',) * 4, 'up_block_types': ('UpDecoderBlock2D',) * 4}
CLIP_L = {'vocab_size': 49408, 'hidden_size': 768, 'intermediate_size': 3072,
          'num_hidden_layers': 12, 'num_attention_heads': 12}
CLIP_H = CLIP_L | {'hidden_size': 1024, 'intermediate_size': 4096, 'num_hidden_layers': 23,
                   'num_attention_heads': 16}
CLIP_G = CLIP_L | {'hidden_size': 1280, 'intermediate_size': 5120, 'num_hidden_layers': 32,
                   'num_attention_heads': 20,
                   'projection_dim': 1280}

SHAPES = 'shapes'                        # the path of a model that is here by its shapes alone

# name: (UNet, pixels of a side of its latents, scale of the latents, text encoders)
MODELS = {'sd15': (UNetConfig(cross_attention_dim=768), 64, .18215, (CLIP_L,)),
          'sd21-base': (SD21, 64, .18215, (CLIP_H,)),
          'mvdream': (mvdream.CONFIG, 32, .18215, (CLIP_H,)),
          'sdxl': (XL, 128, .13025, (CLIP_L, CLIP_G))}


def parts(name: str) -> dict[str, Part | dict]:
  """The parts of one of MODELS, without files."""
  unet, side, scale, texts = MODELS[name]
  configs = {'unet': dataclasses.asdict(unet) | {'sample_size': side},
             'vae': VAE | {'scaling_factor': scale}}
  configs |= dict(zip(('text_encoder', 'text_encoder_2'), texts))
  return {part: Part(config, None, ()) for part, config in configs.items()} | {
    'scheduler': SCHEDULER | {'prediction_type': 'epsilon'}}
