"""Names of pictures: which are the same to people, and what fits none or several."""

import os
import pathlib

import pytest

from metro_jax.data import names

COMPOSED, DECOMPOSED = "caf\u00e9.jpg", "cafe\u0301.jpg"


@pytest.mark.parametrize(
  "key, place",
  [
    ("in/cam1/000001.jpg", 0),  # as given
    ("cam2/000001.jpg", 1),  # its end
    ("cam2\\000001.jpg", 1),
    (".\\cam1\\000001.jpg", 0),
    ("./in/cam1/000001.jpg", 0),
    ("in/cam1/../cam2/000001.jpg", 1),
    ("b.png", 2),  # a bare name that only one has
    (COMPOSED, 3),
    (f"cam2/{DECOMPOSED}", 3),
  ],
)
def test_a_key_is_a_picture_s_path_or_the_end_of_it(key, place):
  paths = ["in/cam1/000001.jpg", "in/cam2/000001.jpg", pathlib.Path("in/cam2/b.png")]
  paths.append(f"in/cam2/{DECOMPOSED}")
  assert names.match([key], paths) == ({key: place}, [], [])
  absolute = os.path.abspath(paths[place])
  assert names.match([absolute], paths).places == {absolute: place}


@pytest.mark.parametrize(
  "key, said",
  [
    ("000001.jpg", "means several pictures: in/cam1/000001.jpg, in/cam2/000001.jpg"),
    ("000001", "means no picture; nearest is in/cam1/000001.jpg"),
    ("000001.JPG", "means no picture; nearest is in/cam1/000001.jpg"),
    ("00001.jpg", "means no picture; nearest is in/cam1/000001.jpg"),
    ("cam3/000001.jpg", "means no picture; nearest is in/cam1/000001.jpg"),
    ("1/000001.jpg", "means no picture; nearest is in/cam1/000001.jpg"),
    ("quite else.png", "means no picture"),
    ("", "means no picture"),
  ],
)
def test_a_key_that_means_none_or_several_is_said_and_given_to_no_picture(key, said):
  paths = ["in/cam1/000001.jpg", "in/cam2/000001.jpg"]
  found = names.match([key], paths)
  assert found.places == {}
  assert (found.problems, found.absent)["no picture" in said] == [f"{key!r} {said}"]
  assert len(found.problems) + len(found.absent) == 1


def test_two_keys_of_one_picture_are_said_and_neither_is_taken():
  found = names.match(["a.jpg", "in\\a.jpg", "b.jpg"], ["in/a.jpg", "in/b.jpg"])
  assert found.places == {"b.jpg": 1}
  assert found.problems == [r"'a.jpg' and 'in\\a.jpg' both mean the picture in/a.jpg"]


def test_the_path_as_given_goes_before_the_end_of_another():
  found = names.match(["a.jpg", "sub/a.jpg"], ["a.jpg", "sub/a.jpg"])
  assert found == ({"a.jpg": 0, "sub/a.jpg": 1}, [], [])


def test_names_that_look_the_same_in_one_folder_have_each_their_own():
  found = names.match([COMPOSED, DECOMPOSED], [f"in/{DECOMPOSED}", f"in/{COMPOSED}"])
  assert found == ({COMPOSED: 1, DECOMPOSED: 0}, [], [])
  paths = [f"cam1/{DECOMPOSED}", f"cam2/{COMPOSED}"]  # to people one name in two
  assert "means several pictures" in names.match([COMPOSED], paths).problems[0]


def put(folder: pathlib.Path, *files: str) -> None:
  for name in files:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)


@pytest.mark.parametrize(
  "name, there",
  [
    ("photos/17.jpg", "photos/17.jpg"),
    ("photos\\17.jpg", "photos/17.jpg"),
    (".\\photos\\17.jpg", "photos/17.jpg"),
    ("a\\b.jpg", "a\\b.jpg"),  # a name with a backslash goes before a folder's
    (f"photos\\{COMPOSED}", f"photos/{DECOMPOSED}"),
    (f"{COMPOSED[:4]}/1.jpg", f"{DECOMPOSED[:5]}/1.jpg"),  # folders, too
    ("photos/../photos/17.jpg", "photos/17.jpg"),
    ("~x.jpg", "~x.jpg"),
  ],
)
def test_a_file_is_found_by_any_spelling_of_its_name(tmp_path, name, there):
  put(tmp_path, "photos/17.jpg", "a\\b.jpg", "a/b.jpg", f"photos/{DECOMPOSED}")
  put(tmp_path, f"{DECOMPOSED[:5]}/1.jpg", "~x.jpg")
  assert names.find_file(name, tmp_path).read_text() == there
  if name != "~x.jpg":
    absolute = f"{tmp_path}/{name}"
    assert names.find_file(absolute, tmp_path).read_text() == there


@pytest.mark.parametrize(
  ("written", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]
)
def test_accents_are_found_in_both_ways_of_writing_them(tmp_path, written, there):
  put(tmp_path, f"a/{there}")
  assert names.find_file(f"a/{written}", tmp_path).read_text() == f"a/{there}"
  put(tmp_path, f"a/{written}")  # beside it: now each has its own
  assert names.find_file(f"a/{written}", tmp_path).read_text() == f"a/{written}"


def test_a_path_from_the_home_folder_is_found(tmp_path, monkeypatch):
  put(tmp_path, "photos/17.jpg")
  monkeypatch.setenv("HOME", str(tmp_path))
  found = names.find_file("~/photos/17.jpg", tmp_path / "photos")
  assert found == tmp_path / "photos/17.jpg"


@pytest.mark.parametrize("name", ["photos/17.JPG", "photos/17", "photos/17.png"])
def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path, name):
  put(tmp_path, "photos/17.jpg", "photos/other.jpg")
  with pytest.raises(FileNotFoundError, match=r"is not there; nearest is '17\.jpg'"):
    names.find_file(name, tmp_path)


def test_a_misspelt_name_is_recognised_among_very_many(tmp_path):
  put(tmp_path, *(f"{number:06d}_walking.jpg" for number in range(500)))
  with pytest.raises(FileNotFoundError, match=r"nearest is '000417_walking\.jpg'"):
    names.find_file("000417_walkin.jpg", tmp_path)


def test_names_of_files_elsewhere_are_refused(tmp_path):
  put(tmp_path, "mine/photos/17.jpg", "private/x.jpg")
  mine = tmp_path / "mine"
  (mine / "link.jpg").symlink_to(tmp_path / "private/x.jpg")
  (mine / "links").symlink_to(tmp_path / "private")
  (mine / "own.jpg").symlink_to("photos/17.jpg")
  wrong = ["../private/x.jpg", "..\\private\\x.jpg", f"{tmp_path}/private/x.jpg"]
  wrong += ["link.jpg", "links/x.jpg", "links\\x.jpg", "/etc/passwd", "~root/x.jpg"]
  for name in wrong:
    with pytest.raises(ValueError, match=r"expected a name inside .*mine, got '"):
      names.find_file(name, mine)
  assert names.find_file("own.jpg", mine).read_text() == "mine/photos/17.jpg"
  others = [tmp_path / "private"]
  assert names.find_file("link.jpg", mine, others).read_text() == "private/x.jpg"
  for name in ("", ".", "a\0b"):
    with pytest.raises(ValueError, match="expected the name of a file in"):
      names.find_file(name, mine)
