"""Rows come out in order; bad ones are named in order, whatever step finds them."""

import pathlib
import runpy

import pytest

from metro_jax.data import schema
from metro_jax.data.builders import split_source, valid_rows

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))
NO_JSON, NO_PICTURE, NO_TEXT = 5, 3, 8  # found when read, checked and serialised


class Reader:
  """Thirty rows, some of which are bad."""

  name = "thirty"
  labels = schema.BODY

  def __len__(self) -> int:
    return 30

  def where(self, row: int) -> str:
    return f"thirty row {row}"

  def read(self, row: int) -> schema.Example:
    if row == NO_JSON:
      raise ValueError("bad JSON")
    picture = b"none" if row == NO_PICTURE else rows["picture"](row)
    example = schema.make_example(schema.BODY, f"k/{row}", picture, [24, 24], 40)
    if row == NO_TEXT:
      del example["group"]
    return example


def sound(span, most_refused=4, known_bad=None, at_row=lambda row: None):
  refused = []
  found = valid_rows.valid_rows(
    Reader(), span, known_bad or {}, at_row, refused, most_refused
  )
  return list(found), refused


def test_valid_rows_come_in_order_with_their_records():
  found, refused = sound(range(2, 30), known_bad={20: "it ended a process"})
  kept = [row for row in range(2, 30) if row not in (3, 5, 8, 20)]
  assert [example["key"] for example, _ in found] == [f"k/{row}" for row in kept]
  for example, record in found:
    assert split_source.parse(record, schema.BODY)["image"] == example["image"]
  assert [(bad.row, bad.where) for bad in refused] == [
    (row, f"thirty row {row}") for row in (3, 5, 8, 20)
  ]
  assert [bad.reason.split(":")[0] for bad in refused] == [
    "image",
    "bad JSON",
    "KeyError",
    "it ended a process",
  ]


def test_too_many_are_the_first_in_order():
  with pytest.raises(valid_rows.TooManyRefused) as error:
    sound(range(30), most_refused=0)
  assert [bad.row for bad in error.value.refused] == [NO_PICTURE]
  with pytest.raises(valid_rows.TooManyRefused) as error:
    sound(range(30), most_refused=2)
  assert [bad.row for bad in error.value.refused] == [NO_PICTURE, NO_JSON, NO_TEXT]


def test_every_step_says_first_at_which_row_it_is():
  seen = []
  sound(range(9, 20), at_row=seen.append)
  assert {row: seen.count(row) for row in seen} == dict.fromkeys(range(9, 20), 3)
