"""Models of random weights in the published layout of files, small enough to be made in a test."""
import json

import jax
import jax.numpy as jnp
import ldm_layout
import numpy as np
import safetensors.numpy

from jaxdreamer.nn import clip, clip_vision, unet, unet_config, vae
from jaxdreamer.weights import safetensors_io

UNET = {'_class_name': 'UNet2DConditionModel', 'in_channels': 4, 'out_channels': 4,
        'sample_size': 8,
        'block_out_channels': [32, 64], 'layers_per_block': 1,
        'down_block_types': ['CrossAttnDownBlock2D', 'DownBlock2D'],
        'up_block_types': ['UpBlock2D', 'CrossAttnUpBlock2D'], 'cross_attention_dim': 32,
        'attention_head_dim': 4}
MVDREAM = UNET | {'down_block_types': ['DownBlock2D', 'CrossAttnDownBlock2D'],
                  'up_block_types': ['CrossAttnUpBlock2D', 'UpBlock2D'], 'cross_attention_dim': 64,
                  'attention_head_dim': [1, 1],
                  'use_linear_projection': True, 'class_embed_type': 'projection',
                  'projection_class_embeddings_input_dim': 16}
SDXL = MVDREAM | {'cross_attention_dim': 80, 'class_embed_type': None,
                  'addition_embed_type': 'text_time',
                  'addition_time_embed_dim': 8, 'projection_class_embeddings_input_dim': 24 + 6 * 8}
VAE = {'_class_name': 'AutoencoderKL', 'block_out_channels': [32, 32], 'layers_per_block': 1,
       'latent_channels': 4,
       'down_block_types': [vae.DOWN] * 2, 'up_block_types': [vae.UP] * 2, 'scaling_factor': .18215}
SCHEDULER = {'_class_name': 'DDIMScheduler', 'beta_start': .00085, 'beta_end': .012,
             'beta_schedule': 'scaled_linear',
             'num_train_timesteps': 1000, 'steps_offset': 1, 'clip_sample': False,
             'trained_betas': None,
             'prediction_type': 'epsilon'}
FORWARD = {'beta_start': .00085, 'beta_end': .012, 'beta_schedule': 'scaled_linear',
           'num_train_timesteps': 1000}
INDEX = {'_class_name': 'StableDiffusionPipeline', 'unet': ['diffusers', 'UNet2DConditionModel'],
         'vae': ['diffusers', 'AutoencoderKL'],
         'text_encoder': ['transformers', 'CLIPTextModel'],
         'tokenizer': ['transformers', 'CLIPTokenizer'],
         'scheduler': ['diffusers', 'DDIMScheduler']}
MERGES = ('r e', 're d</w>', 'm u', 'mu g</w>', 'e r')


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def byte_letters():
  """GPT-2's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  return [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]


def vocabulary():
  """Of a tokenizer that knows the words of MERGES."""
  letters = byte_letters()
  words = [*letters, *(f'{letter}</w>' for letter in letters),
           *(merge.replace(' ', '') for merge in MERGES),
           '<|startoftext|>', '<|endoftext|>']
  return {word: i for i, word in enumerate(words)}


def write_tokenizer(folder, *, pad='<|endoftext|>'):
  """A CLIP tokenizer of this vocabulary, which is returned."""
  words = vocabulary()
  write_json(folder / 'vocab.json', words)
  (folder / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(MERGES) + '\n')
  write_json(folder / 'special_tokens_map.json', {'pad_token': pad})
  write_json(folder / 'tokenizer_config.json', {'model_max_length': 77,
                                                'tokenizer_class': 'CLIPTokenizer'})
  return words


def write_new_tokenizer(folder, *, pad='<|endoftext|>', more=()):
  """The same as transformers 5 saves it: tokenizer.json and no vocab.json; `more` words are added
  behind the vocabulary."""
  words = vocabulary()
  special = {pad, '<|startoftext|>', '<|endoftext|>'}
  added = [{'id': words[token], 'content': token, 'special': True} for token in sorted(special)]
  added += [{'id': len(words) + i, 'content': token, 'special': False}
            for i, token in enumerate(more)]
  write_json(folder / 'tokenizer.json', {
    'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': added,
    'model': {'type': 'BPE', 'dropout': None, 'unk_token': '<|endoftext|>',
              'continuing_subword_prefix': '',
              'end_of_word_suffix': '</w>', 'fuse_unk': False, 'vocab': words,
              'merges': [merge.split() for merge in MERGES]}})
  write_json(folder / 'tokenizer_config.json', {
    'backend': 'tokenizers', 'bos_token': '<|startoftext|>', 'eos_token': '<|endoftext|>',
    'model_max_length': 77, 'pad_token': pad,
    'tokenizer_class': 'CLIPTokenizer', 'unk_token': '<|endoftext|>'})
  return words


def write_clip(folder, *, seed=0):
  """A CLIP model of 16 pixels in transformers' layout, both towers and the tokenizer in one folder.
  Returns its config."""
  vocabulary = write_tokenizer(folder)
  sizes = {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2,
           'num_attention_heads': 2}
  config = {'model_type': 'clip', 'projection_dim': 16,
            'text_config': sizes | {'vocab_size': len(vocabulary),
                                    'eos_token_id': vocabulary['<|endoftext|>']},
            'vision_config': sizes | {'image_size': 16, 'patch_size': 4}}
  write_json(folder / 'config.json', config)
  keys = jax.random.split(jax.random.key(seed), 2)
  towers = (clip.CLIPTextModelWithProjection(clip.config_from_transformers(config)),
            jnp.zeros((1, 77), jnp.int32)), (
clip_vision.CLIPVisionModelWithProjection(clip_vision.config_from_transformers(config)),
jnp.zeros((1, 16, 16, 3)))
  tree = {}
  for key, (tower, example) in zip(keys, towers):
    tree |= tower.init(key, example)['params']
  safetensors_io.save(folder / 'model.safetensors', tree, dtype=jnp.float32)
  return config


def drawn(network, seed, *args, **kw):
  """Random parameters of a network; nothing is zero, and nothing is compiled."""
  return filled(jax.eval_shape(network.init, jax.random.key(0), *args, **kw)['params'], seed)


def filled(like, seed):
  """Random parameters of these shapes, none of which is zero."""
  noise = np.random.RandomState(seed)
  def draw(path, leaf):
    center = 1. if path[-1].key == 'scale' else 0.
    width = leaf.shape[-1] ** -.5 if path[-1].key == 'embedding' else np.prod(
        leaf.shape[:-1]) ** -.5 if leaf.ndim > 1 else .05
    return (center + width * noise.standard_normal(leaf.shape)).astype(np.float32)
  return jax.tree_util.tree_map_with_path(draw, like)


def named(tree):
  """{published key: tensor} of parameters."""
  return {key: np.ascontiguousarray(safetensors_io.transpose(path, np.asarray(leaf),
                                                             safetensors_io.TO_TORCH))
          for key, (path, leaf) in safetensors_io.keys_of(tree).items()}


def write_mvdream(folder, *, seed=0):
  """mvdream.safetensors, an MVDream of latents of any size in the layout of sd-v2.1-base-4view, and
  its tokenizer beside it.
  Returns its parameters."""
  vocabulary = write_tokenizer(folder / 'tokenizer', pad='!')
  text = {'vocab_size': len(vocabulary), 'hidden_size': 64, 'intermediate_size': 64,
          'num_hidden_layers': 3, 'hidden_act': 'gelu',
          'num_attention_heads': 1, 'max_position_embeddings': 77,
          'eos_token_id': vocabulary['<|endoftext|>']}
  params = {'unet': drawn(unet.UNet2DCondition(unet_config.from_diffusers(MVDREAM)), seed,
                          jnp.zeros((1, 8, 8, 4)), jnp.zeros(1),
                          jnp.zeros((1, 77, 64)), jnp.zeros((1, 16))),
            'vae': drawn(vae.AutoencoderKL(vae.config_from_diffusers(VAE)), seed + 1,
                         jnp.zeros((1, 16, 16, 3))),
            'text': drawn(clip.CLIPTextModel(clip.CLIPTextConfig(**text)), seed + 2,
                          jnp.zeros((1, 77), jnp.int32))}
  tensors = {'model.diffusion_model.': ldm_layout.unet(named(params['unet']), MVDREAM),
             'first_stage_model.': ldm_layout.vae(named(params['vae']), VAE),
             'cond_stage_model.model.': ldm_layout.open_clip(named(params['text']))
             | {'logit_scale': np.ones((), np.float32)},
             '': {'betas': np.ones(5, np.float32), 'sqrt_alphas_cumprod': np.ones(5, np.float32)}}
  safetensors.numpy.save_file({prefix + key: x for prefix, part in tensors.items()
                               for key, x in part.items()},
                              folder / 'mvdream.safetensors')
  return params


def write_mvdream_folder(folder, params):
  """The same model as ashawkey/mvdream-sd2.1-diffusers has it: a UNet of a class of its own, with
  the original code's fields and names, and the other parts as diffusers'."""
  write_tokenizer(folder / 'tokenizer', pad='!')
  write_json(folder / 'model_index.json', INDEX | {
    '_class_name': 'MVDreamPipeline', '_diffusers_version': '0.19.0',
    'feature_extractor': [None, None], 'image_encoder': [None, None],
    'requires_safety_checker': False,
    'unet': ['mv_unet', 'MultiViewUNetModel']})
  write_json(folder / 'unet' / 'config.json', {
    '_class_name': 'MultiViewUNetModel', '_diffusers_version': '0.19.0',
    'attention_resolutions': [2], 'camera_dim': 16, 'channel_mult': [1, 2], 'context_dim': 64,
    'image_size': 32, 'in_channels': 4, 'model_channels': 32, 'num_head_channels': 64,
    'num_res_blocks': 1, 'out_channels': 4, 'transformer_depth': 1, 'use_checkpoint': False})
  write_json(folder / 'vae' / 'config.json', VAE)
  text = params['text']
  write_json(folder / 'text_encoder' / 'config.json', {
    'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model', 'hidden_act': 'gelu',
    'vocab_size': len(vocabulary()), 'hidden_size': 64, 'intermediate_size': 64,
    'num_attention_heads': 1, 'num_hidden_layers': 2, 'eos_token_id': len(vocabulary()) - 1,
    'max_position_embeddings': 77})
  write_json(folder / 'scheduler' / 'scheduler_config.json', SCHEDULER)
  safetensors.numpy.save_file(ldm_layout.unet(named(params['unet']), MVDREAM),
                              folder / 'unet' / 'diffusion_pytorch_model.safetensors')
  safetensors_io.save(folder / 'vae' / 'diffusion_pytorch_model.safetensors', params['vae'],
                      dtype=jnp.float32)
  # the single file has a last layer that the UNet never saw
  seen = text | {'encoder': {k: v for k, v in text['encoder'].items() if k != 'layers_2'}}
  safetensors_io.save(folder / 'text_encoder' / 'model.safetensors', {'text_model': seen},
                      dtype=jnp.float32)


def write_sdxl(folder, *, seed=0):
  """A Stable Diffusion XL of 16 pixels in diffusers' layout, two text encoders and tokenizers.
  Returns its parameters."""
  towers = {'text_encoder': (clip.CLIPTextModel, 32, {'hidden_act': 'quick_gelu'}, '<|endoftext|>'),
            'text_encoder_2': (clip.CLIPTextModelWithProjection, 48,
                               {'hidden_act': 'gelu', 'projection_dim': 24}, '!')}
  params = {'unet': drawn(unet.UNet2DCondition(unet_config.from_diffusers(SDXL)), seed,
                          jnp.zeros((1, 8, 8, 4)), jnp.zeros(1),
                          jnp.zeros((1, 77, 80)), text_embeds=jnp.zeros((1, 24)),
                          time_ids=jnp.zeros((1, 6))),
            'vae': drawn(vae.AutoencoderKL(vae.config_from_diffusers(VAE)), seed + 1,
                         jnp.zeros((1, 16, 16, 3)))}
  files = {'unet': (SDXL, params['unet']), 'vae': (VAE, params['vae'])}
  index = INDEX | {'_class_name': 'StableDiffusionXLPipeline', 'force_zeros_for_empty_prompt': True,
                   'text_encoder_2': ['transformers', 'CLIPTextModelWithProjection'],
                   'tokenizer_2': ['transformers', 'CLIPTokenizer']}
  for name, (network, width, options, pad) in towers.items():
    vocabulary = write_tokenizer(folder / name.replace('text_encoder', 'tokenizer'), pad=pad)
    text = options | {'architectures': [network.__name__], 'model_type': 'clip_text_model',
                      'vocab_size': len(vocabulary),
                      'hidden_size': width, 'intermediate_size': 64, 'num_hidden_layers': 2,
                      'num_attention_heads': 2,
                      'max_position_embeddings': 77, 'eos_token_id': vocabulary['<|endoftext|>']}
    params[name] = drawn(network(clip.config_from_transformers(text)), seed + width,
                         jnp.zeros((1, 77), jnp.int32))
    files[name] = text, params[name] if name == 'text_encoder_2' else {'text_model': params[name]}
  write_json(folder / 'model_index.json', index)
  write_json(folder / 'scheduler' / 'scheduler_config.json', SCHEDULER)
  for part, (config, tree) in files.items():
    write_json(folder / part / 'config.json', config)
    stem = 'model' if 'text' in part else 'diffusion_pytorch_model'
    safetensors_io.save(folder / part / f'{stem}.safetensors', tree, dtype=jnp.float32)
  return params


def write_model(folder, *, seed=0, scheduler=None, dtype=jnp.float32, sizes=None):
  """A Stable Diffusion of 16 pixels, or of `sizes` {part: its config}, in diffusers' layout: unet,
  vae, text_encoder, tokenizer, scheduler. Returns its parameters."""
  vocabulary = write_tokenizer(folder / 'tokenizer')
  text = {'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model',
          'vocab_size': len(vocabulary), 'hidden_size': 32,
          'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
          'max_position_embeddings': 77,
          'hidden_act': 'quick_gelu', 'eos_token_id': vocabulary['<|endoftext|>']}
  configs = {'unet': UNET, 'vae': VAE, 'text_encoder': text}
  for name, changes in (sizes or {}).items():
    configs[name] = configs[name] | changes
  words = jnp.zeros((1, 77, configs['unet']['cross_attention_dim']))
  networks = {'unet': unet.UNet2DCondition(unet_config.from_diffusers(configs['unet'])),
              'vae': vae.AutoencoderKL(vae.config_from_diffusers(configs['vae'])),
              'text_encoder': clip.CLIPTextModel(clip.config_from_transformers(
                  configs['text_encoder']))}
  inputs = {'unet': (jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), words),
            'vae': (jnp.zeros((1, 16, 16, 3)),),
            'text_encoder': (jnp.zeros((1, 77), jnp.int32),)}
  params = {part: drawn(network, seed + i, *inputs[part])
            for i, (part, network) in enumerate(networks.items())}
  write_json(folder / 'model_index.json', INDEX)
  for part, config in configs.items():
    write_json(folder / part / 'config.json', config)
    name = 'model' if part == 'text_encoder' else 'diffusion_pytorch_model'
    tree = {'text_model': params[part]} if part == 'text_encoder' else params[part]
    safetensors_io.save(folder / part / f'{name}.safetensors', tree, dtype=dtype)
  write_json(folder / 'scheduler' / 'scheduler_config.json', SCHEDULER | (scheduler or {}))
  return params
