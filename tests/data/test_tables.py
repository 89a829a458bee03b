"""Labels in a table beside the images."""

import json
import pathlib
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from experts.data.sources import UndecodableImage, open_dataset


def _png(value: int) -> bytes:
  return cv2.imencode('.png', np.full((4, 4, 3), value, np.uint8))[1].tobytes()


def _write(root: pathlib.Path, images: str, **tables: str | bytes) -> pathlib.Path:
  """Images, the i-th filled with i, and tables, in whose names _ stands for a dot."""
  for i, name in enumerate(images.split()):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(_png(i))
  for name, text in tables.items():
    content = text if isinstance(text, bytes) else text.encode()
    (root / name.replace('_', '.').replace('-', '/')).write_bytes(content)
  return root


def _rows(data) -> list[tuple[int, str]]:
  return [(int(data.image(i)[0, 0, 0]), data.class_names[data.label(i)]) for i in range(len(data))]


FORMS = {
  'comma': 'file,label\na.png,red\nb.png,blue\n',
  'semicolon, mark and capitals of Excel': b'\xef\xbb\xbfFile;Label\r\na.png;red\r\nb.png;blue\r\n',
  'tabs in UTF-16': 'file\tlabel\na.png\tred\nb.png\tblue\n'.encode('utf-16'),
  'told separator': 'sep=;\nfile;label\na.png;red\nb.png;blue\n',
  'quotes, spaces, blank lines': '\n"file", label\n\n"a.png", red\nb.png,"blue"\n,\n',
  'other name': 'path,label\n./a.png,red\nx/../b.png,blue\n',
  'separators of Windows': 'file_name,label\n.\\a.png,red\nb.png,blue\n',
}


@pytest.mark.parametrize('form', FORMS)
def test_a_table_is_read_in_every_form_that_people_save(tmp_path, form):
  root = _write(tmp_path, 'a.png b.png', labels_csv=FORMS[form])
  data = open_dataset(f'images:{root}', 'train')
  assert _rows(data) == [(0, 'red'), (1, 'blue')]
  assert data.intake.left_out == {}
  assert data.intake.notes == ()


@pytest.mark.parametrize('kind', ['folder', '.tgz', '.zip'])
@pytest.mark.parametrize('wrap', ['', 'set/'])
@pytest.mark.parametrize('name', ['labels.csv', 'metadata.csv', 'Metadata.jsonl'])
def test_a_table_beside_a_folder_of_images_in_every_container(tmp_path, kind, wrap, name):
  rows = [('images/b.png', 'red'), ('images/a.png', 'blue'), ('images/c', 'red')]
  text = 'file_name,label\n' + ''.join(f'{file},{label}\n' for file, label in rows)
  if name.endswith('jsonl'):
    text = ''.join(json.dumps({'file_name': f, 'label': label}) + '\n' for f, label in rows)
  _write(
    tmp_path / 'set', f'{wrap}images/a.png {wrap}images/b.png {wrap}images/c {wrap}images/d.png'
  )
  (tmp_path / 'set' / wrap / name).write_text(text)
  path = tmp_path / f'set{"" if kind == "folder" else kind}'
  if kind == '.tgz':
    with tarfile.open(path, 'w:gz') as archive:
      archive.add(tmp_path / 'set', '.')
  elif kind == '.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      for file in (tmp_path / 'set').rglob('*'):
        archive.write(file, file.relative_to(tmp_path / 'set'))
  data = open_dataset(f'images:{path}', 'train')
  # What a table names is read whatever its suffix; the order is that of the names.
  assert _rows(data) == [(0, 'blue'), (1, 'red'), (2, 'red')]
  assert data.intake.left_out == {f'not in {name}': 1}
  assert data.where(0).endswith('images/a.png')


def test_labels_are_text(tmp_path):
  labels = ['007', '7', '1e5', 'True', 'NA', '1.0', 'a/b', '100000']
  names = [f'{i}.png' for i in range(len(labels))]
  table = 'file,label\n' + ''.join(f'{n},{label}\n' for n, label in zip(names, labels))
  data = open_dataset(
    f'images:{_write(tmp_path / "c", " ".join(names), labels_csv=table)}', 'train'
  )
  assert [name for _, name in _rows(data)] == labels
  lines = '{"file_name": "0.png", "label": 7}\n{"file_name": "1.png", "label": "007"}\n'
  lines += '{"file_name": "2.png", "label": 1e5}\n{"file_name": "3.png", "label": true}\n'
  lines += '{"file_name": "4.png", "label": 12345678901234567890, "text": {"any": [1]}}\n'
  root = _write(tmp_path / 'j', ' '.join(names[:5]), metadata_jsonl=lines)
  data = open_dataset(f'images:{root}', 'train')
  assert [name for _, name in _rows(data)] == ['7', '007', '1e5', 'true', '12345678901234567890']
  assert 'columns that are not used: text' in data.intake.notes[0]


def test_splits_of_a_table_are_told_by_a_column_or_by_folders(tmp_path):
  table = 'file,label,split\na.png,x,Training\nb.png,y,val\nc.png,x,fold 3\nd.png,y,TEST\n'
  root = _write(tmp_path / 'a', 'a.png b.png c.png d.png', labels_csv=table)
  for split, value in (('train', 0), ('validation', 1), ('fold 3', 2), ('test', 3)):
    data = open_dataset(f'images:{root}', split)
    assert [pixel for pixel, _ in _rows(data)] == [value]
    assert data.class_names == ('x', 'y')
  assert data.intake.splits == {'train': 1, 'validation': 1, 'test': 1, 'fold 3': 1}
  table = 'file,label\ntrain/a.png,x\ntrain/b.png,y\nTest/c.png,x\n'
  root = _write(tmp_path / 'b', 'train/a.png train/b.png Test/c.png', labels_csv=table)
  assert open_dataset(f'images:{root}', 'test').intake.splits == {'train': 2, 'test': 1}
  root = _write(
    tmp_path / 'c',
    'train/a.png train/b.png valid/c.png',
    **{
      'train-metadata_csv': 'file,label\na.png,x\nb.png,y\n',
      'valid-metadata_csv': 'file,label\nc.png,y\n',
    },
  )
  assert _rows(open_dataset(f'images:{root}', 'validation')) == [(2, 'y')]


def test_groups_that_hold_whole_classes_are_their_parents_and_others_belong_together(tmp_path):
  table = 'file,label,group\na.png,cat,animal\nb.png,dog,animal\nc.png,oak,plant\n'
  data = open_dataset(
    f'images:{_write(tmp_path / "a", "a.png b.png c.png", labels_csv=table)}', 'train'
  )
  assert set(data.edges) == {('cat', 'animal'), ('dog', 'animal'), ('oak', 'plant')}
  table = 'file,label,group\na.png,ill,Ann\nb.png,well,Bob\nc.png,ill,Cy\n'
  data = open_dataset(
    f'images:{_write(tmp_path / "b", "a.png b.png c.png", labels_csv=table)}', 'train'
  )
  assert data.edges == ()
  assert data.groups == ('Ann', 'Bob', 'Cy')


NOTED = {
  # a table; what is read; what is left out; the note
  'unknown columns': (
    'file,width,label,height\na.png,3,x,4\nb.png,3,y,4\n',
    [(0, 'x'), (1, 'y')],
    {},
    'columns that are not used: width, height',
  ),
  'empty labels': (
    'file,label\na.png,x\nb.png,\n',
    [(0, 'x')],
    {'without a label in labels.csv': 1},
    '1 files without a label are left out: b.png',
  ),
  'empty splits': (
    'file,label,split\na.png,x,train\nb.png,y,\n',
    [(0, 'x')],
    {'without a split in labels.csv': 1},
    '1 files without a split are left out: b.png',
  ),
  'equal rows': (
    'file,label\na.png,x\nb.png,y\n./a.png,x\n',
    [(0, 'x'), (1, 'y')],
    {},
    '1 files are in more than one row: ./a.png',
  ),
  'no UTF-8': (
    b'file,label\na.png,caf\xe9\nb.png,y\n',
    [(0, r'caf\xe9'), (1, 'y')],
    {},
    '',
  ),
}


@pytest.mark.parametrize('case', NOTED)
def test_what_is_odd_in_a_table_is_named(tmp_path, case):
  table, rows, left_out, note = NOTED[case]
  data = open_dataset(f'images:{_write(tmp_path, "a.png b.png", labels_csv=table)}', 'train')
  assert _rows(data) == rows
  assert data.intake.left_out == left_out
  assert note in ' '.join(data.intake.notes)


@pytest.mark.parametrize('kind', ['folder', '.zip'])
def test_a_file_that_is_missing_counts_as_an_image_that_cannot_be_read(tmp_path, kind):
  root = _write(tmp_path / 'set', 'a.png', labels_csv='file,label\na.png,x\ngone.png,y\n')
  path = root
  if kind == '.zip':
    path = tmp_path / 'set.zip'
    with zipfile.ZipFile(path, 'w') as archive:
      for file in root.iterdir():
        archive.write(file, file.name)
  data = open_dataset(f'images:{path}', 'train')
  assert '1 files are not there: gone.png' in data.intake.notes[0]
  with pytest.raises(
    UndecodableImage, match=r'set.*gone\.png: .* is in line 3 of labels\.csv, but not'
  ):
    data.image(1)
  assert len(data.identify()) == 64


REFUSED = {
  'contradiction': ('file,label\na.png,x\nb.png,y\na.png,y\n', "'a.png' is there twice, in lines 2 and 4"),
  'none there': ('file,label\nimg/a.png,x\n', "none of its 1 files is there, the first 'img/a.png'"),
  'outside': ('file,label\n../a.png,x\n', "line 2: '../a.png' leaves the folder"),
  'no file': ('file,label\n,x\n', 'line 2 names no file'),
  'too many cells': ('file,label\na.png,x,y\n', 'line 2 has 3 cells, the first 2'),
  'a column twice': ('file,label,label\na.png,x,y\n', "column 'label' is there twice"),
  'no header': ('a.png,x\nb.png,y\n', r'its images lie in no class folder'),
  'empty': ('', r'its images lie in no class folder'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_a_table_that_contradicts_itself_is_refused_in_a_line(tmp_path, case):
  table, message = REFUSED[case]
  root = _write(tmp_path, 'a.png b.png', labels_csv=table)
  with pytest.raises(ValueError, match=message) as caught:
    open_dataset(f'images:{root}', 'train')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('[1, 2]', 'line 2 is no object'),
    ('{"file_name": ', 'line 2 is no JSON'),
    ('{"file_name": "b.png", "label": ["x"]}', "line 2: 'label' is neither text nor a number"),
  ],
)
def test_a_line_of_json_that_is_none_is_named(tmp_path, line, message):
  first = '{"file_name": "a.png", "label": "x"}\n'
  root = _write(tmp_path, 'a.png b.png', metadata_jsonl=first + line)
  with pytest.raises(ValueError, match=message):
    open_dataset(f'images:{root}', 'train')


def test_two_tables_of_labels_are_refused_and_one_without_labels_is_named(tmp_path):
  labels = 'file,label\na.png,x\nb.png,y\n'
  root = _write(tmp_path / 'a', 'a.png b.png', labels_csv=labels, metadata_csv=labels)
  with pytest.raises(ValueError, match=r'labels\.csv: .*metadata\.csv has labels too: remove one'):
    open_dataset(f'images:{root}', 'train')
  root = _write(tmp_path / 'b', 'x/a.png y/b.png', metadata_csv='file_name,text\nx/a.png,a thing\n')
  data = open_dataset(f'images:{root}', 'train')
  assert data.class_names == ('x', 'y')
  assert 'metadata.csv: is not used: it has no columns file' in data.intake.notes[0]
  root = _write(tmp_path / 'c', 'x/a.png y/b.png', **{'x-labels_csv': 'file,label\na.png,z\n'})
  data = open_dataset(f'images:{root}', 'train')
  assert data.class_names == ('x', 'y')
  assert 'x/labels.csv: is not used: it lies neither beside' in data.intake.notes[0]


def test_accents_are_found_however_the_system_spells_them(tmp_path):
  root = _write(
    tmp_path, 'cafe\u0301.png b.png', labels_csv='file,label\ncaf\u00e9.png,x\nb.png,y\n'
  )
  assert _rows(open_dataset(f'images:{root}', 'train')) == [(1, 'y'), (0, 'x')]


def test_a_table_whose_columns_are_others_is_named_where_the_folder_is_refused(tmp_path):
  root = _write(tmp_path / 'data', 'a.png b.png', labels_csv='filename,class\na.png,red\n')
  with pytest.raises(ValueError, match=r'no class folder.*labels\.csv: is not used: it has no col'):
    open_dataset(f'images:{root}', 'train')


def test_a_path_without_its_scheme_is_met_by_the_scheme(tmp_path):
  with pytest.raises(ValueError, match=rf'did you mean images:{tmp_path}\?'):
    open_dataset(str(tmp_path), 'train')
