r"""ScaleDreamer's prompt-amortised generators at full size, by ASD, a config for each of its
corpora:

  python -m jaxdreamer.train --config=configs/scaledreamer_amortised.py:df415 \
      --config.prior.path=FOLDER --config.corpus.path=FILE
  python -m jaxdreamer.doctor --config=configs/scaledreamer_amortised.py:df415 \
      --config.corpus.path=FILE

The second says what a step takes.

mg15 is Hyper-iNGP, df415 and at2520 are 3DConv-Net, cp100k its larger size, all on Stable Diffusion
2.1-base with one view of a prompt; dl17k is the triplane transformer on MVDream with four. A step
holds a prompt for each device of 8 GPUs; `:df415,64` is for 64 devices, a v5e-64 or eight such
hosts. dl17k adds up two steps to an update, as published, which makes 200k steps.
From ScaleDreamer's configs/multi-prompt_benchmark: asd_sd_hyper_iNGP_50k (mg15),
asd_sd_3dconv_net_100k (df415), _50k (at2520), _300k (cp100k), asd_mv_triplane_transformer_10k
(dl17k).

Beside what configs/sd.py says, this differs:
- samples: a ray's 193 trained intervals are those of 193 samples that 128 propose, a quarter of
  them evenly; there the 64 fine and
  the 129 edges of the proposal, merged.
- eikonal: at every fourth sample, since each takes four distances; there at all.
- space: the ball of radius 2 from the camera on; there from .1 to 4 along each ray.
- dl17k: words are normalized, tokens begin as waves and blend with their neighbors'
  (jaxdreamer/scenes/triplane_transformer.py
  says why), and the background's colors end at 0 and 1; there tokens begin as noise, and colors
  reach .001 further.
"""
from jaxdreamer.configs import base, scaledreamer_mvdream, sd

CONV3D = {'text': 1024, 'channels': (512, 512, 512, 256, 128, 64), 'features': 32, 'width': 256,
          'radius': .8, 'extent': 2.}
LARGER = CONV3D | {'channels': (512, 512, 512, 512, 256, 128)}
INGP = {'text': 1024, 'levels': 16, 'log2_table': 19, 'base': 16, 'finest': 4096, 'radius': .5,
        'extent': 2.}
TRIPLANE = {'text': 1024, 'tokens': 32, 'width': 768, 'blocks': 12, 'heads': 16, 'features': 32,
            'upsample': 2, 'hidden': 64,
            'radius': .8, 'extent': 2.}

# corpus: scene, its sizes, steps, optimizer, its eps, rates of field and background, background,
# its share of random colors
RECIPES = {
  'mg15': ('hyper_ingp', INGP, 50_000, 'adam', 1e-8, .004, .001, 'hypernet', .2),
  'df415': ('conv3d', CONV3D, 100_000, 'adam', 1e-8, .004, .001, 'environment', .5),
  'at2520': ('conv3d', CONV3D, 50_000, 'adam', 1e-8, .004, .001, 'environment', .5),
  'cp100k': ('conv3d', LARGER, 300_000, 'adan', 1e-15, .004, .001, 'environment', .5),
  'dl17k': ('triplane_transformer', TRIPLANE, 200_000, 'adan', 1e-15, 2e-4, 2e-4,
            'environment', 0.),
}


def get_config(what='df415,8'):
  corpus, _, devices = what.partition(',')
  scene, sizes, steps, optimizer, eps, rate, rate_of_background, background, random = RECIPES[
      corpus]
  several = corpus == 'dl17k'
  config = scaledreamer_mvdream.get_config() if several else sd.get_config()
  config.prompt = ''
  config.corpus.update({'path': 'FILE', 'prompts': int(devices or 8)})
  config.sampling.views = config.corpus.prompts * (4 if several else 1)
  config.steps = steps
  config.scene.name = scene
  config.scene[scene].update(sizes)
  config.estimator.name = 'asd'
  config.estimator.asd.update({'guidance': (7.5,), 'eta': .1})
  config.perp_neg = 0. if several else .5
  config.sampling.t_min = base.of_steps(config, lambda steps: (.5, .02, steps))
  config.sampling.t_max = base.of_steps(config, lambda steps: (.98, .5, steps))
  if not several:
    config.cameras.distance = (1., 1.5)
  config.render.update({'samples': 128, 'fine': 193, 'radius': 2., 'stages': (), 'chunk': 0,
                        'normals': 'exact',
                        'background': background, 'random_background': random})
  config.regularizers.update({'sparsity': (20.,), 'orientation': (0.,), 'eikonal': (.01,)})
  if not several:
    config.regularizers.eikonal = base.of_steps(config,
                                                lambda steps: (100., 1., max(steps // 10, 1)))
  opaque = 1. if several else 10.
  config.regularizers.opaque = base.of_steps(config, lambda steps: (0., opaque, steps * 4 // 5,
                                                                    max(steps // 5, 1)))
  config.optim.groups = (('scene/field/.*', rate, optimizer),
                         ('scene/.*', rate_of_background, optimizer),
                         ('est/moments/.*', .5, 'sgd'), ('est/.*', .0001))
  config.optim.update({'b1': 0., 'eps': eps, 'weight_decay': 0., 'accumulate': 2 if several else 1})
  config.eval.radius = 1.                        # what the released evaluation's cameras see
  return config
