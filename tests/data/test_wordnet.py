"""WordNet's noun file."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from experts.data import hierarchy, wordnet

SHARED = Path(__file__).resolve().parents[2].parent / 'shared' / 'data' / 'wordnet'
needs_wordnet = pytest.mark.skipif(not SHARED.exists(), reason='needs ../shared/data/wordnet')

# Words may hold letters of the alphabet's end, counts are hexadecimal (0b words), other pointers (#p, ~) are not is-a.
NOUNS = """\
  1 This software and database is being provided to you
00000001 03 n 01 thing 0 001 ~ 00000002 n 0000 | all there is
00000002 15 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 capital_city 0 002 @ 00000001 n 0000 ~i 00000003 n 0000 | a seat; "the | sign"
00000003 15 n 01 Paris 0 003 @i 00000002 n 0000 #p 00000001 n 0000 @ 00000001 n 0000 | a town
"""


def test_lines_are_read_as_the_format_says():
  nouns = wordnet.parse(NOUNS)
  assert nouns.edges == (
    ('n00000002', 'n00000001'),
    ('n00000003', 'n00000002'),
    ('n00000003', 'n00000001'),
  )
  assert nouns.definitions == {
    'n00000001': 'thing: all there is',
    'n00000002': 'a, b, c, d, e, f, g, h, i, j, capital city: a seat; "the | sign"',
    'n00000003': 'Paris: a town',
  }


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('<html>', r"nouns, line 1: '<html>' is no noun synset"),
    ('00000001 03 v 01 go 0 000 | to move', 'line 1: .* is no noun synset'),
    ('00000001 03 n 01 thing 0 002 @ 00000002 n 0000 | cut', 'line 1: .* is no noun synset'),
    (
      '00000001 03 n 01 thing 0 001 @ 00000009 n 0000 | all',
      'nouns: n00000001 is said to be a n00000009, which is not there',
    ),
  ],
)
def test_what_is_no_noun_file_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    wordnet.parse(text, 'nouns')


@needs_wordnet
def test_all_noun_synsets_are_read():
  nouns = wordnet.load(str(SHARED))
  assert len(nouns.definitions) == 82_115
  # `zcat data.noun.gz | grep -oE ' @i? [0-9]{8} n ' | wc -l` counts them too.
  assert len(nouns.edges) == 84_427
  assert nouns.definitions['n02084071'].startswith(
    'dog, domestic dog, Canis familiaris: a member of the genus Canis'
  )
  assert {parent for child, parent in nouns.edges if child == 'n02084071'} == {
    'n02083346',
    'n01317541',
  }
  tree = hierarchy.from_edges(nouns.edges, sorted(nouns.definitions))
  # One root, entity, above every noun.
  assert [name for name, above in zip(tree.nodes, tree.parents) if not above] == ['n00001740']
  assert (tree.table == tree.index('n00001740')).any(1).all()


@needs_wordnet
@pytest.mark.parametrize('member', ['dict/data.noun', 'WordNet-3.0/dict/data.noun'])
def test_download_takes_the_noun_file_of_the_published_archive(tmp_path, member):
  text = gzip.decompress((SHARED / 'data.noun.gz').read_bytes())
  with tarfile.open(tmp_path / 'WNdb-3.0.tar.gz', 'w:gz', compresslevel=1) as tar:
    for name, data in (('dict/index.noun', b'another'), (member, text)):
      header = tarfile.TarInfo(name)
      header.size = len(data)
      tar.addfile(header, io.BytesIO(data))
  nouns = wordnet.load('download', (tmp_path / 'WNdb-3.0.tar.gz').as_uri())
  assert len(nouns.definitions) == 82_115
  (tmp_path / 'dict').mkdir()
  (tmp_path / 'dict' / 'data.noun').write_bytes(text)
  assert wordnet.load(str(tmp_path)).edges == nouns.edges


def test_what_is_not_wordnet_3_0_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'--wordnet=download, or install .*wordnet-base'):
    wordnet.load(str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r'cannot be fetched .*--wordnet=PATH'):
    wordnet.load('download', (tmp_path / 'nowhere').as_uri())
  (tmp_path / 'page').write_text('<html>')
  with pytest.raises(ValueError, match='no archive with'):
    wordnet.load('download', (tmp_path / 'page').as_uri())
  (tmp_path / 'data.noun').write_text(NOUNS)
  with pytest.raises(ValueError, match=r'3 noun synsets, but WordNet 3\.0 has 82115'):
    wordnet.load(str(tmp_path))
  (tmp_path / 'cut.gz').write_bytes(gzip.compress(NOUNS.encode())[:-20])
  with pytest.raises(ValueError, match=r'cut\.gz: cannot be decompressed'):
    wordnet.load(str(tmp_path / 'cut.gz'))
