"""Readers of transformers' config.json files. A field is known to the class that asks, fixed by it
to one value, or of no consequence for the forward pass; ValueError lists all others, for they may
change the maths."""
import dataclasses
from typing import Any

# What transformers writes into every config, old releases more than new ones.
GENERIC = frozenset('''
  _name_or_path _commit_hash _attn_implementation_autoset attn_implementation architectures
  model_type transformers_version torch_dtype dtype return_dict output_hidden_states
  output_attentions torchscript use_bfloat16 tf_legacy_loss tie_word_embeddings
  chunk_size_feed_forward is_encoder_decoder is_decoder cross_attention_hidden_size
  add_cross_attention tie_encoder_decoder max_length min_length do_sample early_stopping
  num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
  repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
  bad_words_ids num_return_sequences output_scores return_dict_in_generate forced_bos_token_id
  forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
  begin_suppress_tokens finetuning_task id2label label2id num_labels tokenizer_class prefix
  bos_token_id pad_token_id eos_token_id sep_token_id decoder_start_token_id
  task_specific_params problem_type initializer_range stage_names
  hidden_dropout_prob attention_probs_dropout_prob drop_path_rate
'''.split())                             # dropout and stochastic depth act in training alone


def fields_of(config: dict, cls: type, *, defaults: dict, fixed: dict,
              ignored: tuple[str, ...] = ()) -> dict[str, Any]:
  """The fields of `cls` among `defaults | config`, lists as tuples. `defaults` are transformers',
  not ours: its files leave out what equals them. `fixed` maps the names of other fields to the one
  value each may have."""
  config = defaults | config
  known = {f.name for f in dataclasses.fields(cls)}
  foreign = {k: config[k] for k in config.keys() & fixed.keys()
             if simple(config[k]) != simple(fixed[k])}
  unknown = {k: v for k, v in config.items() if v is not None and v != {}
             and k not in known and k not in fixed and k not in GENERIC and k not in ignored}
  if foreign or unknown:
    raise ValueError(f'{cls.__name__} cannot serve a checkpoint whose config.json says '
                     f'{foreign | unknown}')
  return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known}


def simple(value: Any) -> Any:
  """Lists as tuples and words in lower case, to be compared."""
  return tuple(value) if isinstance(value, list) else value.lower() if isinstance(
      value, str) else value


def side(owner: str, name: str, value: Any) -> int:
  """The one number of a size that may be written as a pair. ValueError for a pair of two
  numbers."""
  sides = set(value) if isinstance(value, (list, tuple)) else {value}
  if len(sides) != 1:
    raise ValueError(f'{owner}: {name} {value} is not square')
  return int(sides.pop())


def stage_indices(owner: str, config: dict, stages: int) -> tuple[int, ...]:
  """Which of stem (0), stage1 .. stage`stages` a backbone returns: out_indices or out_features; by
  default the last."""
  indices, features = config.get('out_indices'), config.get('out_features')
  names = ['stem', *(f'stage{i}' for i in range(1, stages + 1))]
  if features is not None and not set(features) <= set(names):
    raise ValueError(f'{owner}: out_features {features} are not all of {names}')
  by_name = None if features is None else tuple(names.index(f) for f in features)
  by_index = None if indices is None else tuple(i % len(names) for i in indices)
  if by_name and by_index and by_name != by_index:
    raise ValueError(f'{owner}: out_features {features} and out_indices {indices} contradict '
                     'each other')
  return by_name or by_index or (stages,)
