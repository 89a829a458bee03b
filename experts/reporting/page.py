"""Writes the report: one self-contained HTML page, and the same as Markdown and CSV."""

import base64
import html
import importlib.resources
import os
import pathlib
import string
from collections.abc import Mapping, Sequence

import pandas as pd

from experts.reporting import canvas, contents, files, summary, tables

# A mark beside the colour, for prints without colours.
_CLASSES = {
  'natural': ('natural', '●'),
  'specialized': ('specialized', '▲'),
  'structured': ('structured', '■'),
  summary.NATURAL_SIX: ('six', '◆'),
}
# Headings of more columns stand upright.
_NARROW = 14
# Longer tables scroll in a box, except in print.
_LONG = 40


def write(results: contents.Results, folder: str | os.PathLike) -> pathlib.Path:
  """Writes index.html, report.md, a CSV for each table, and a PNG with its CSV for each figure.

  Args:
    results: what to report.
    folder: where to; made if it is not there.

  Returns:
    The path of index.html, which needs no other file and no network.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  parts = contents.collect(results, folder)
  for part in parts:
    if part.table is not None:
      files.write(part.table, folder / f'{part.name}.csv')
  files.write_text(_markdown(parts), folder / 'report.md')
  template = importlib.resources.files('experts.reporting').joinpath('page.html')
  page = string.Template(template.read_text(encoding='utf-8')).substitute(
    contents=_contents(parts),
    key=_key(results.groups),
    parts='\n'.join(_sections(parts, results.groups, folder)),
    missing=_missing(parts),
  )
  path = folder / 'index.html'
  files.write_text(page, path)
  return path


def _sections(
  parts: Sequence[contents.Part], groups: Mapping[str, str], folder: pathlib.Path
) -> list[str]:
  lines, last = [], ''
  for part in parts:
    if part.section != last:
      lines.append(f'<h2 id="{_anchor(part.section)}">{html.escape(part.section)}</h2>')
      last = part.section
    lines.append(f'<section id="{part.name}">')
    if not part.figure:
      lines.append(f'<h3>{html.escape(part.title)}</h3>')
    if part.lacking:
      title = f'<b>{html.escape(part.title)}.</b> ' if part.figure else ''
      lines.append(f'<p class="lacking">{title}Not here: {html.escape(part.lacking)}.</p>')
    elif part.figure:
      image = (folder / part.figure).read_bytes()
      data = base64.b64encode(image).decode()
      # Its header holds the width; an inch is 96 CSS pixels.
      width = 96 * int.from_bytes(image[16:20]) // canvas.DPI
      caption = html.escape(part.title)
      lines.append(
        f'<figure><img alt="{caption}" width="{width}" src="data:image/png;base64,{data}"><figcaption>{caption}. Data: '
        f'{part.name}.csv</figcaption></figure>'
      )
    else:
      if part.about:
        lines.append(f'<p>{html.escape(part.about)}</p>')
      lines.append(_table(part, groups))
    lines.append('</section>')
  return lines


def _table(part: contents.Part, groups: Mapping[str, str]) -> str:
  table = part.table
  columns = _shown(table)
  heads = []
  for column in columns:
    mark = _group_mark(column, groups)
    numeric = ' num' if pd.api.types.is_numeric_dtype(table[column]) else ''
    heads.append(
      f'<th scope="col" class="{mark[0]}{numeric}" aria-sort="none" tabindex="0"><span>{mark[1]}'
      f'{html.escape(column)}</span></th>'
    )
  rows = []
  for values in table.to_dict('records'):
    mark = ' class="paper"' if values.get('source') == contents.EXP else ''
    rows.append(
      f'<tr{mark}>{"".join(_cell(values, c, part.percent, groups) for c in columns)}</tr>'
    )
  body, foot = rows[: len(rows) - part.foot], rows[len(rows) - part.foot :]
  foot = f'<tfoot>\n{chr(10).join(foot)}\n</tfoot>' if foot else ''
  form = 'narrow' if len(columns) > _NARROW else ''
  box = 'wide long' if len(rows) > _LONG else 'wide'
  body = '\n'.join(body)
  return (
    f'<div class="{box}" tabindex="0"><table class="{form}" data-name="{part.name}">\n<thead><tr>{"".join(heads)}</tr></thead>\n'
    f'<tbody>\n{body}\n</tbody>\n{foot}</table></div>'
  )


def _cell(values: Mapping, column: str, percent: Sequence[str], groups: Mapping[str, str]) -> str:
  value = values[column]
  shown = html.escape(_text(value, column in percent))
  if interval := _interval(values, column):
    shown += f' <small>[{interval}]</small>'
  if pd.isna(value):
    return f'<td class="none" data-v="">{tables.NONE}</td>'
  if isinstance(value, str):
    mark, symbol = _group_mark(value, groups) if column == 'task' else ('', '')
    return f'<td class="{mark}">{symbol}{shown}</td>' if mark else f'<td>{shown}</td>'
  return f'<td class="num" data-v="{value:.9g}">{shown}</td>'


def _shown(table: pd.DataFrame) -> list[str]:
  """The columns; intervals stand in the cells of what they are of."""
  ends = {f'{c} {end}' for c in table for end in ('low', 'high')}
  return [c for c in table if c not in ends]


def _interval(values: Mapping, column: str) -> str:
  low, high = values.get(f'{column} low'), values.get(f'{column} high')
  if low is None or pd.isna(low):
    return ''
  return f'{_text(low, True)}, {_text(high, True)}'


def _text(value: object, share: bool) -> str:
  if pd.isna(value):
    return tables.NONE
  if share:
    return f'{100 * value:.1f}'.replace('-', '−')
  if isinstance(value, float) and abs(value) < 1000:
    return f'{value:.4g}'.replace('-', '−')
  return value if isinstance(value, str) else f'{value:,.0f}'


def _group_mark(name: str, groups: Mapping[str, str]) -> tuple[str, str]:
  """CSS class and mark of a task's or a group's name."""
  group, mark = _CLASSES.get(groups.get(name, name), ('', ''))
  return (f'g-{group}', f'<i>{mark}</i> ') if group else ('', '')


def _key(groups: Mapping[str, str]) -> str:
  present = [name for name in _CLASSES if name in groups.values()]
  return ' '.join(
    f'<span class="{_group_mark(n, {})[0]}">{_group_mark(n, {})[1]}{n}</span>' for n in present
  )


def _contents(parts: Sequence[contents.Part]) -> str:
  sections = dict.fromkeys(part.section for part in parts)
  return ' '.join(f'<a href="#{_anchor(s)}">{html.escape(s)}</a>' for s in sections)


def _missing(parts: Sequence[contents.Part]) -> str:
  lacking = [part for part in parts if part.lacking]
  if not lacking:
    return '<p>Nothing: all tables and figures are here.</p>'
  rows = (
    f'<li><a href="#{part.name}">{html.escape(part.title)}</a>: {html.escape(part.lacking)}.</li>'
    for part in lacking
  )
  return f'<ul>{"".join(rows)}</ul>'


def _anchor(section: str) -> str:
  return 's-' + ''.join(c if c.isalnum() else '-' for c in section.lower())


def _markdown(parts: Sequence[contents.Part]) -> str:
  lines, last = ['# Transfer with experts', ''], ''
  for part in parts:
    if part.section != last:
      lines += [f'## {part.section}', '']
      last = part.section
    if part.lacking:
      lines += [f'**{part.title}.** Not here: {part.lacking}.', '']
    elif part.figure:
      lines += [f'![{part.title}]({part.figure})', '', f'{part.title}.', '']
    else:
      lines += [f'### {part.title}', '', *([part.about, ''] if part.about else [])]
      lines += [_markdown_table(part), '']
  return '\n'.join(lines)


def _markdown_table(part: contents.Part) -> str:
  columns = _shown(part.table)
  cells = {f'{c} %' if c in part.percent else c: [] for c in columns}
  for values in part.table.to_dict('records'):
    for column, texts in zip(columns, cells.values(), strict=True):
      text, interval = _text(values[column], column in part.percent), _interval(values, column)
      texts.append(f'{text} [{interval}]' if interval else text)
  align = [
    'right' if pd.api.types.is_numeric_dtype(part.table[column]) else 'left' for column in columns
  ]
  return tables.lay_out(cells, align, tables.MARKDOWN)
