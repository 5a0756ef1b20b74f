"""Rewrites the figures of README.md and docs/*.md from benchmarks/results/*.json:

    python -m benchmarks.readme [--check]

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`: the columns named in TABLES, or
else every key of the "rows" of results/NAME.json. A figure stands between `<!-- figure:
NAME.key.key FORMAT -->` and `<!-- /figure -->`.
"""
import re
import sys

from benchmarks import results

README = results.ROOT / 'README.md'
PAGES = [README, *sorted(results.ROOT.glob('docs/**/*.md'))]

# A column that no row has a value for is left out. table: (results file, its list of rows,
# {heading: (key, format)})
TABLES = {
    'toybox': ('toybox', 'rows', {
        'prompt': ('prompt', ''), 'silhouette IoU': ('iou', '.3f'), 'mesh IoU': ('mesh_iou', '.3f'),
        'volume IoU': ('volume_iou', '.3f'), 'Chamfer': ('chamfer', '.4f'), 'PSNR': ('psnr', '.1f'),
        'normals off by': ('normal_degrees', '.0f'),
        'color': ('color_right', ''), 'R@1': ('recall_at_1', '.2f'), 'one front': ('one_front', ''),
        'seconds': ('seconds', '.0f')}),
    'rays': ('rays', 'rows', {
        'samples of a ray': ('way', ''), 'seconds': ('seconds', '.2f'),
        'times as fast': ('times_as_fast', '.2f'), 'from': ('lower', '.2f'), 'to': ('upper', '.2f'),
        'PSNR': ('psnr', '.1f'), 'least': ('least_psnr', '.1f'), 'no room': ('no_room', '.3f'),
        'most': ('most_no_room', '.3f')}),
    'captions': ('captions', 'least', {
        'caption': ('prompt', ''), 'silhouette IoU': ('iou', '.3f'), 'PSNR': ('psnr', '.1f'),
        'color': ('color_right', ''), 'R@1': ('recall_at_1', '.2f'),
        'one front': ('one_front', '')}),
    'estimators': ('estimators', 'rows', {
        'method': ('method', ''), 'silhouette IoU': ('iou', '.3f'), 'from': ('iou_lower', '.3f'),
        'to': ('iou_upper', '.3f'),
        'color': ('color', '.2f'), 'one front': ('one_front', '.2f'),
        'recognizable': ('recognizable', ''),
        'above SDS': ('iou_above_sds', '.3f'), 'from ': ('iou_above_sds_lower', '.3f'),
        'to ': ('iou_above_sds_upper', '.3f'),
        'steps': ('steps', ''), 'seconds': ('seconds', '.0f'),
        'to IoU .8': ('seconds_to_0.8', '.1f'),
        'to .9': ('seconds_to_0.9', '.1f'), 'a step / SDS': ('cost', '.2f'),
        'from  ': ('cost_lower', '.2f'),
        'to  ': ('cost_upper', '.2f'), 'a row / SDS': ('row_over_sds', '.2f'),
        'compiles in': ('compile_seconds', '.0f'),
        'relative variance': ('relative_variance', '.2f')}),
    'amortised': ('amortised', 'rows', {
        'estimator': ('estimator', ''), 'IoU, trained': ('train_iou', '.3f'),
        'from': ('train_iou_lower', '.3f'),
        'to': ('train_iou_upper', '.3f'), 'IoU, held out': ('heldout_iou', '.3f'),
        'from ': ('heldout_iou_lower', '.3f'),
        'to ': ('heldout_iou_upper', '.3f'), 'R@1, trained': ('train_recall_at_1', '.2f'),
        'R@1, held out': ('heldout_recall_at_1', '.2f'), 'steps': ('steps', ''),
        'rows of the prior': ('prior_rows', ''),
        'seconds': ('seconds', '.0f')}),
    'scaling': ('scaling', 'rows', {
        'devices': ('devices', ''), 'processes': ('processes', ''),
        'parameters': ('parameters', ''), 'collectives': ('collectives_accelerator', ''),
        'bytes': ('bytes_accelerator', ''), 'on CPUs': ('collectives_cpu', ''),
        'bytes ': ('bytes_cpu', ''), 'difference': ('difference', '.1e')}),
    'scaling_model': ('scaling', 'model', {
        'on paper': ('work', ''), 'device': ('kind', ''), 'ms of 1': ('ms_1', '.0f'),
        'of 64': ('ms_64', '.0f'), 'of 4,096': ('ms_4096', '.0f'),
        'efficiency of 8': ('efficiency_8', '.2f'), '64': ('efficiency_64', '.2f'),
        '256': ('efficiency_256', '.2f'), '1,024': ('efficiency_1024', '.2f'),
        '4,096': ('efficiency_4096', '.2f')}),
    'generator': ('generator', 'rows', {
        'captions': ('captions', ''), 'of them': ('prompts', ''), 'silhouette IoU': ('iou', '.3f'),
        'from': ('iou_lower', '.3f'), 'to': ('iou_upper', '.3f'),
        'R@1': ('recall_at_1', '.3f'), 'from ': ('recall_at_1_lower', '.3f'),
        'to ': ('recall_at_1_upper', '.3f'), 'color off by': ('color_error', '.3f')}),
    'real_path': ('real_path', 'rows', {
        'method': ('method', ''), 'silhouette IoU': ('iou', '.3f'), 'least': ('least', '.3f'),
        'PSNR': ('psnr', '.1f'), 'color': ('color', '.2f'), 'R@1': ('recall_at_1', '.2f')}),
    'restoration': ('real_path', 'restoration', {
        'restored by': ('restorer', ''), 'PSNR': ('psnr', '.2f'), 'from': ('psnr_lower', '.2f'),
        'to': ('psnr_upper', '.2f'), 'sharpness': ('sharpness', '.3f'),
        'from ': ('sharpness_lower', '.3f'), 'to ': ('sharpness_upper', '.3f'),
        'read': ('read', '.3f'), 'from  ': ('read_lower', '.3f'), 'to  ': ('read_upper', '.3f')}),
    'compile': ('compile', 'rows', {
        'config': ('config', ''), 'stage': ('stage', ''), 'programs': ('programs', ''),
        'traced in': ('trace', '.0f'), 'first compiled in': ('first', '.0f'),
        'all': ('all', '.0f')}),
}


def table(name):
  """Markdown of one table, and the line that says how it was made."""
  source, key, columns = TABLES.get(name, (name, 'rows', None))
  figures = results.read(source)
  if figures is None:
    return f'*Not measured yet: `python -m benchmarks.{source}`.*'
  rows = figures[key]
  columns = columns or {k: (k, '') for k in rows[0]}
  columns = {name: of for name, of in columns.items() if any(of[0] in row for row in rows)}
  cells = [[show(row.get(k), form) for k, form in columns.values()] for row in rows]
  numeric = [all(not isinstance(row.get(k), str) for row in rows) for k, _ in columns.values()]
  lines = [list(columns), [('---:' if right else '---') for right in numeric], *cells]
  made = figures['made']
  jax = f'jax {made["versions"]["jax"]}'
  note = f'`{made["command"]}`, ' + ', '.join((made['device'], jax, f'commit {made["commit"]}',
                                               made['date']))
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + f'\n\n<sub>{note}</sub>'


def figure(path, form):
  """One figure: `toybox.mean_iou` with format `.3f`."""
  name, *keys = path.split('.')
  value = results.read(name)
  for key in keys:
    value = value and value.get(key)
  return show(value, form)


def show(value, form):
  if value is None:
    return '-'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if not form and isinstance(value, float):
    form = '.3g'
  return format(value, form)


def render(text):
  """`text` with every marked table and figure taken anew from the results."""
  text = re.sub(r'(<!-- table: (\S+) -->\n).*?(<!-- /table -->)',
                lambda m: f'{m[1]}{table(m[2])}\n{m[3]}', text, flags=re.DOTALL)
  return re.sub(r'(<!-- figure: ([\w.-]+) ?(\S*) -->).*?(<!-- /figure -->)',
                lambda m: f'{m[1]}{figure(m[2], m[3])}{m[4]}', text)


def main(arguments):
  stale = [page for page in PAGES if render(page.read_text()) != page.read_text()]
  if '--check' in arguments:
    names = ', '.join(str(page.relative_to(results.ROOT)) for page in stale)
    sys.exit(f'{names}: differs from benchmarks/results: run python -m benchmarks.readme'
             if stale else 0)
  for page in stale:
    page.write_text(render(page.read_text()))


if __name__ == '__main__':
  main(sys.argv[1:])
