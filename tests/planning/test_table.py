"""Plans in words, in a table and in JSON, from one made up by hand."""

import importlib.util
import json
import pathlib

from metro_jax.planning import plan, table

spec = importlib.util.spec_from_file_location(
  "toy_plans", pathlib.Path(__file__).parent / "test_plan.py"
)
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)


def test_the_row_of_a_slice():
  # 8 images a chip of 4 in 8 ms: 4,000 images/s; 14,400,000 of them take an hour.
  made = toys.toy_plan()._replace(largest=56, compared=4)
  row = table.rows([made], 14_400_000).splitlines()[-1]
  cells = [cell.strip() for cell in row.strip("|").split("|")]
  assert dict(zip(table.COLUMNS, cells, strict=True)) == {
    "slice": "toy:2x2",
    "chips": "4",
    "hosts": "2",
    "batch a chip": "8",
    "memory a chip": "1.00 GiB",
    "of": "16.00 GiB",
    "fits": "yes",
    "largest": "56",
    "GFLOP/image": "1.0",
    "MB/image": "0",
    "images/s ≤": "4,000",
    "h/epoch ≥": "1",
    "limited by": "products",
    "compiled in": "1 s",
  }


def test_the_words_say_how_much_is_left_or_too_much():
  assert "1.00 of 16.00 GiB: fits, 15.00 GiB left" in table.text(toys.toy_plan(), 0, [])
  large = toys.toy_plan(toys.toy_program(18.5 * toys.GIB, fits=False), bounds=None)
  assert "does not fit, 2.50 GiB too much" in table.text(large, 0, [])
  silent = toys.toy_plan(toys.toy_program(0.0, fits=False))
  assert "does not fit, by how much the compiler does not say" in table.text(
    silent, 0, []
  )


def test_the_words_say_what_the_largest_batch_was_found_by():
  one = toys.toy_plan()._replace(largest=56)
  assert "56 images a chip, 224 in all (a line from the state and gradients thr" in (
    table.text(one, 0, [])
  )
  two = table.text(one._replace(compared=4), 0, [])
  assert "(a line through 4 and 8 images; not compiled itself)" in two


def test_an_unknown_epoch_is_told_by_the_million():
  text = table.text(toys.toy_plan(), 0, ["padding: much"])
  assert "every million images take at least 0.0694 hours" in text
  assert "limited by its products" in text and "nowhere" in text
  assert text.endswith("! padding: much")


def test_the_values_are_json():
  made = toys.toy_plan()
  values = table.values(made, 100, ["note"])
  assert json.loads(json.dumps(values)) == values
  assert values["images_per_second_at_most"] == 4000
  assert (
    values["train"]["seconds_at_least"] == plan.Bounds(0.008, 0.001, 0.002)._asdict()
  )
