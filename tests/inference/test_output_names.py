import itertools
import os
import pathlib
import random

import pytest

from metro_jax.inference import output_names

NFC, NFD = "caf\u00e9", "cafe\u0301"


def claim(*pictures):
  namer = output_names.Namer()
  return [namer.claim(pathlib.Path(name), people) for name, people in pictures]


def test_a_picture_of_one_person_keeps_its_name():
  (names,) = claim(("photos/a.jpg", 1))
  assert names.files == ["a_overlay.jpg", "a.glb", "a.obj", "a.npz"]


def test_several_people_are_numbered_and_nobody_has_an_overlay_alone():
  two, none = claim(("a.jpg", 2), ("b.jpg", 0))
  assert two.people == ("a_1", "a_2") and two.overlay == "a_overlay.jpg"
  assert none.files == ["b_overlay.jpg"]


@pytest.mark.parametrize(
  ("pictures", "stems"),
  [
    ([("x/a.jpg", 1), ("y/a.jpg", 1), ("a.png", 1)], ["a", "a-2", "a-3"]),
    ([("frame.jpg", 2), ("frame_1.jpg", 1), ("frame_2.jpg", 1), ("frame_3.jpg", 1)],
     ["frame", "frame_1-2", "frame_2-2", "frame_3"]),
    ([("x_1.jpg", 1), ("x.jpg", 2)], ["x_1", "x-2"]),
    ([("x_1.jpg", 1), ("x.jpg", 1)], ["x_1", "x"]),
    ([("a.jpg", 1), ("a_overlay.jpg", 1)], ["a", "a_overlay"]),
    ([("contact_sheet.jpg", 1)], ["contact_sheet"]),
    ([("A.jpg", 1), ("a.jpg", 1)], ["A", "a-2"]),
    ([(f"{NFC}.jpg", 1), (f"{NFD}.jpg", 1)], [NFC, f"{NFD}-2"]),
    ([("a.jpg", 1), ("a-2.jpg", 1), ("x/a.jpg", 1)], ["a", "a-2", "a-3"]),
  ],
)  # fmt: skip
def test_names_that_would_meet_are_numbered(pictures, stems):
  assert [names.stem for names in claim(*pictures)] == stems


def test_long_names_are_cut_to_what_a_file_system_takes():
  long = [("b" * 245 + ".jpg", 1), ("x/" + "b" * 246 + ".jpg", 12), ("é" * 120, 1)]
  names = claim(*long)
  assert names[0].stem == "b" * 243  # with _overlay.jpg 255 bytes
  for name in itertools.chain(*(one.files for one in names)):
    assert len(os.fsencode(name)) <= 255


def test_no_two_files_ever_meet():
  rng = random.Random(0)
  parts = ["a", "A", "_1", "_2", "-2", "_overlay", "contact_sheet", NFC, NFD, "ß", "ss",
           "\udce9", ".", "_11", "b" * 120]  # fmt: skip
  for _ in range(100):
    stems = ["".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(30)]
    pictures = [(f"{i}/{stem}.jpg", rng.randint(0, 12)) for i, stem in enumerate(stems)]
    names = [name for one in claim(*pictures) for name in one.files]
    names.append(output_names.CONTACT_SHEET)
    assert len({output_names.fold(name) for name in names}) == len(names)
    assert all(len(os.fsencode(name)) <= 255 for name in names)


def test_ten_thousand_pictures_of_one_name_are_named_at_once():
  names = claim(*((f"{i}/a.jpg", 1) for i in range(10_000)))
  assert names[-1].stem == "a-10000"
