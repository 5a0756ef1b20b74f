"""What the parity tests compare: tiny configs, and weights and inputs that depend on nothing but a
key's name.

Weights come from numpy's RandomState (its streams are frozen by contract) seeded with the CRC of
the checkpoint key, so a golden file stores outputs and the list of keys, no weights, and a misnamed
parameter shows as a wrong output.
Norm scales and biases are drawn too: at their usual 1 and 0 they would test nothing. Most of what
feeds a norm is small, or the eps of a norm (1e-5 here, 1e-6 there) could not be told from its
neighbors.
"""
import pathlib
import re
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'golden'

SMALL = re.compile(
    r'conv_in|conv1|conv2|time_emb_proj|proj_in|proj_out|to_out|conv\.bias|shortcut\.bias|'
                   r'_embedding\.weight|out_proj|fc2')

DOWN, UP, CROSS_DOWN, CROSS_UP = ('DownBlock2D', 'UpBlock2D', 'CrossAttnDownBlock2D',
                                  'CrossAttnUpBlock2D')
UNETS = {
    'sd1': dict(  # one head count, 1x1 convolutions, no attention on the last level
        in_channels=4, out_channels=4, block_out_channels=(16, 32, 32), layers_per_block=2,
                norm_num_groups=8,
        down_block_types=(CROSS_DOWN, CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP, CROSS_UP),
        cross_attention_dim=24, attention_head_dim=4),
    'sd2': dict(  # heads and depth per level, dense projections, the other order of sinusoids
        in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1,
                norm_num_groups=4,
        down_block_types=(CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP),
                cross_attention_dim=24,
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6),
    'toybox': dict(                      # pixel-unshuffled input and a camera vector
        in_channels=48, out_channels=48, block_out_channels=(16, 32, 48), layers_per_block=1,
                   norm_num_groups=8,
        down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP),
        cross_attention_dim=32, attention_head_dim=4, use_linear_projection=True,
        class_embed_type='projection', projection_class_embeddings_input_dim=8),
    'sdxl': dict(  # no attention on the first level, depth two on the last; pooled text and sizes
        in_channels=4, out_channels=4, block_out_channels=(16, 32, 32), layers_per_block=1,
                 norm_num_groups=8,
        down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, UP),
                 cross_attention_dim=24,
        attention_head_dim=(1, 2, 4), transformer_layers_per_block=(1, 1, 2),
                 use_linear_projection=True,
        addition_embed_type='text_time', addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=12 + 6 * 8),
    'mvdream': dict(  # a camera vector; self-attention spans VIEWS['mvdream'] pictures
        in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
                    norm_num_groups=8,
        down_block_types=(CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP),
                    cross_attention_dim=24,
        attention_head_dim=(2, 4), use_linear_projection=True, class_embed_type='projection',
        projection_class_embeddings_input_dim=16),
}
VIEWS = {'mvdream': 4}
CLIPS = {
    'quick_gelu': dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=4,
                       max_position_embeddings=12, hidden_act='quick_gelu', eos_token_id=7,
                       projection_dim=24),
    'gelu': dict(vocab_size=50, hidden_size=32, intermediate_size=80, num_hidden_layers=3,
                 num_attention_heads=2,
                 max_position_embeddings=9, hidden_act='gelu', eos_token_id=49, projection_dim=40),
}
VISIONS = {
    'quick_gelu': dict(hidden_size=32, intermediate_size=64, projection_dim=24, num_hidden_layers=2,
                       num_attention_heads=4, image_size=12, patch_size=4, hidden_act='quick_gelu'),
    'gelu': dict(                        # the last two columns and rows of pixels fill no patch
        hidden_size=32, intermediate_size=80, projection_dim=40, num_hidden_layers=3,
                 num_attention_heads=2,
        image_size=17, patch_size=5, hidden_act='gelu'),
}
DOWN_VAE, UP_VAE = 'DownEncoderBlock2D', 'UpDecoderBlock2D'
VAES = {
    'three_levels': dict(                # as Stable Diffusion's, of four
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16, 16),
                         layers_per_block=2,
        down_block_types=(DOWN_VAE,) * 3, up_block_types=(UP_VAE,) * 3, norm_num_groups=4),
    'two_levels': dict(
        in_channels=3, out_channels=3, latent_channels=6, block_out_channels=(8, 12),
        layers_per_block=1,
        down_block_types=(DOWN_VAE,) * 2, up_block_types=(UP_VAE,) * 2, norm_num_groups=2,
        scaling_factor=.13025),
}


def random(name, *shape):
  """Standard normals that belong to a name."""
  return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(key, shape):
  """A tensor for a torch key: about unit gain, scales about 1, and small in most layers that feed a
  norm."""
  z = random(key, *shape)
  if key.endswith('bias') or 'embedding.weight' in key:
    z = .3 * z
  elif len(shape) == 1:
    z = 1 + .3 * z
  else:
    z = z / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
  return .03 * z if SMALL.search(key) else z


def unet_inputs(name):
  """sample [2, 8, 12, C] NHWC (of two scenes of four views, half that size), timesteps, text, class
  labels or None."""
  config, views = UNETS[name], VIEWS.get(name, 1)
  b, h, w = (2, 8, 12) if views == 1 else (2 * views, 4, 6)
  width = config['projection_class_embeddings_input_dim'] if config.get(
      'class_embed_type') else None
  return (random('sample', b, h, w, config['in_channels']),
          np.array([3.25, 871.], np.float32).repeat(views),
          random('text', b, 5, config['cross_attention_dim']), None if width is None
          else random('camera', b, width))


def unet_extras(name):
  """The keyword inputs: for SDXL text_embeds and time_ids, for others none."""
  if not UNETS[name].get('addition_embed_type'):
    return {}
  sizes = np.array([[1024, 768, 0, 128, 1024, 1024], [512, 512, 64, 0, 1024, 1024]], np.float32)
  width = UNETS[name]['projection_class_embeddings_input_dim'] - 6 * UNETS[name][
      'addition_time_embed_dim']
  return {'text_embeds': random('pooled', 2, width), 'time_ids': sizes}


def unet_cotangent(name):
  """What is pulled back to the sample."""
  return random('cotangent', *unet_inputs(name)[0].shape[:3], UNETS[name]['out_channels'])


def clip_inputs(config):
  """Two prompts with one EOS or several, one that fills all positions."""
  length, eos = config['max_position_embeddings'], config['eos_token_id']
  ids = np.random.RandomState(0).randint(8, 49, (3, length)).astype(np.int32)
  ids[0, 4:], ids[1, -1], ids[2, 2] = eos, eos, eos
  return ids


def vision_inputs(config):
  """Two images, NHWC."""
  return random('image', 2, config['image_size'], config['image_size'], 3)


def vae_inputs(config):
  """Two images [2, 8, 12, 3], two latents [2, 2, 3, Z], cotangents of the encoder's mean and
  logvar."""
  factor = 2 ** (len(config['block_out_channels']) - 1)
  h, w, z = 8 // factor, 12 // factor, config['latent_channels']
  return (random('images', 2, 8, 12, config['in_channels']), random('latents', 2, 2, 3, z),
          (random('d_mean', 2, h, w, z), random('d_logvar', 2, h, w, z)))


def vae_cotangent(name, method):
  """Of the encoder's mean or of the decoder's image, to be pulled back to their inputs."""
  config = VAES[name]
  image, latent, (mean, _) = vae_inputs(config)
  factor = 2 ** (len(config['block_out_channels']) - 1)
  b, h, w, _ = latent.shape
  return mean if method == 'encode' else random('d_image', b, h * factor, w * factor,
                                                config['out_channels'])
