"""Names in messages."""

import os

from experts.data import names


def test_of_many_names_the_first_five_are_named():
  assert names.some(iter('abcde')) == 'a, b, c, d, e'
  assert names.some(iter('abcdefg')) == 'a, b, c, d, e and 2 more'
  assert names.some([]) == ''


def test_bytes_that_are_no_text_are_spelled_out():
  assert names.printable(os.fsdecode(b'caf\xe9')) == 'caf\\xe9'
  assert names.printable('größe') == 'größe'
