"""The table of formats: what is known, and what is refused before anything is read."""

import importlib
import pathlib

import pytest

from metro_jax.data.readers import formats


def test_unknown_formats_and_options_are_named_with_those_that_exist(tmp_path):
  source = formats.Source(tmp_path, "train")
  with pytest.raises(ValueError, match=r"expected one of tsv.*, got 'tvs'"):
    formats.open_reader("tvs", source)
  with pytest.raises(ValueError, match=r"--option of tsv: expected .*, got 'side'"):
    formats.open_reader("tsv", source._replace(options={"side": "left"}))


def test_a_source_that_is_not_there_says_what_the_format_expects(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"x\.yaml is not there; tsv: METRO's"):
    formats.open_reader("tsv", formats.Source(tmp_path / "x.yaml", "train"))


@pytest.mark.parametrize("address", ["gs://bucket/data", "s3://b/x", "gs:/bucket/data"])
def test_buckets_are_refused_with_what_to_do(address):
  with pytest.raises(ValueError, match=r"expected a local folder.*copy it"):
    formats.expect_local(pathlib.Path(address))


@pytest.mark.parametrize("path", ["data", "/a/b:c/d", "C:/data", "./gs"])
def test_local_paths_are_not_taken_for_buckets(path):
  formats.expect_local(pathlib.Path(path))


def test_every_format_has_a_module_that_opens_it():
  room = pathlib.Path(formats.__file__).parent
  for name, chosen in formats.FORMATS.items():
    text = (room / f"{chosen.module}.py").read_text()
    assert "def open_reader(source: Source)" in text, name


def test_every_format_documents_its_command_its_options_and_its_licence():
  for name, chosen in formats.FORMATS.items():
    module = importlib.import_module(f"metro_jax.data.readers.{chosen.module}")
    text = " ".join(module.__doc__.split())
    if name in ("tsv", "jsonl"):  # METRO's layout and a user's own
      continue
    wanted = ("Source: ", "https://", f"--format={name} ", "--split=", "Licence: ")
    assert all(part in text.replace("http:", "https:") for part in wanted), name
    for option in chosen.options:
      assert f"--option={option}=" in text, name
