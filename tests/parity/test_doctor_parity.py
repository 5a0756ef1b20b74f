"""doctor --parity: a user's own folder beside torch's classes, in float32."""
import importlib.util

import numpy as np
import published
import pytest
import safetensors.numpy
from refusals import refused

from configs import dreamfusion_sd
from jaxdreamer import convert, doctor
from jaxdreamer.weights import parity

TOLERANCE = 1e-5                         # of the largest value; 2e-6 measured


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sdxl', 'mvdream'])
def test_every_part_of_a_folder_is_as_near_as_float32_comes(torch_side, tmp_path, kind):
  """The UNet of MVDream looks at one picture here: of several, torch's class knows nothing."""
  folder = tmp_path / 'model'
  if kind == 'mvdream':
    (tmp_path / 'one').mkdir()
    published.write_mvdream(tmp_path / 'one')
    convert.convert(str(tmp_path / 'one' / 'mvdream.safetensors'), folder, say=lambda line: None,
                    tokenizers={'tokenizer': str(tmp_path / 'one' / 'tokenizer')})
  else:
    published.write_sdxl(folder)
  vae = folder / 'vae' / 'diffusion_pytorch_model.safetensors'
  vae.rename(vae.with_name('diffusion_pytorch_model.fp16.safetensors'))  # a variant is found
  found = parity.rows(folder)
  towers = ['text_encoder', 'text_encoder_2'][:1 + (kind == 'sdxl')]
  assert found.keys() == {'unet', 'vae encode', 'vae decode', *towers,
                          *(f'{tower} penultimate' for tower in towers)}
  for name, row in found.items():
    assert row.scale > .1 and row.largest < TOLERANCE * row.scale, (name, row)


def test_a_difference_is_the_largest_of_all_beside_their_largest_value():
  theirs = np.array([[1., -8.], [2., 4.]])
  said = parity.difference(theirs + np.array([[0., .5], [-2., 1.]]), theirs)
  assert said == (2., 8.) and str(said) == '2.00e+00 at most, 2.50e-01 of the largest value'


def test_what_cannot_be_compared_is_told(tmp_path, monkeypatch):
  (tmp_path / 'x.safetensors').write_bytes(safetensors.numpy.save({'a': np.ones(1)}))
  with refused('x.safetensors is one file.*python -m jaxdreamer.convert --from='):
    parity.rows(tmp_path / 'x.safetensors')
  (tmp_path / 'mvdream').mkdir()
  params = published.write_mvdream(tmp_path / 'mvdream')
  published.write_mvdream_folder(tmp_path / 'folder', params)
  with refused('a UNet of a class that diffusers lacks.*python -m jaxdreamer.convert --from='):
    parity.rows(tmp_path / 'folder')
  published.write_model(tmp_path / 'sd')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with refused(r"--parity needs torch and diffusers and transformers: pip install '.*\[parity\]'"):
    parity.rows(tmp_path / 'sd')
  config = dreamfusion_sd.get_config()
  with refused('--parity compares a published model: give .*--config.prior.path'):
    doctor.held_against_torch(config)
