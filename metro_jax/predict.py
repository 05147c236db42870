"""Bodies and hands from photographs and videos, with a trained network.

Run:    python -m metro_jax.predict IMAGE_VIDEO_OR_FOLDER... [--workdir=RUN]
          [--output=FOLDER] [--boxes=FILE.json] [--focal_px=1200] [--hand=left]
          [--parameters] [--formats=glb,obj,ply] [--views=side,top]
          [--colors=photograph] [--smoothing=1]
        Without RUN the network that comes with the package is taken.
Result: For each picture NAME_overlay.jpg, for each person NAME.glb, NAME.obj, NAME.npz
        and NAME_side.jpg, as --formats and --views say, and for several pictures
        contact_sheet.jpg. RUN and FOLDER may be gs:// addresses.

Without boxes each picture is taken to show one person, who fills it. The npz holds:
  vertices_m, joints_m   the mesh and its joints, metres, camera frame (x right, y
                         down, z away); joint_names says which
  camera                 s, tx, ty: x2d = s (X_xy + (tx, ty)) in [-1, 1] of box_px
  box_px                 the square the network saw: center x, center y, side
  scale_px, offset_px    the same in the whole picture: pixel = scale_px X_xy +
                         offset_px
  joints_px              joints_m in the whole picture
  translation_m          to add to the points for a pinhole camera of focal_px whose
                         principal point is the middle of the picture
  image_size_px          width, height
  picture                its path as given

With --parameters the network's body model is fitted to each mesh. The npz then also
holds what smplx's models take, global_orient, body_pose (of a hand, hand_pose), betas
and transl, in the same camera frame, and residual_mm, the mean distance of the fitted
vertices from the mesh; the GLB holds the fitted body with joints, skin and pose in
place of the mesh. With --colors=photograph vertices that it sees have its colours.

A video (pip install 'metro_jax[video]') gives NAME_overlay.mp4 and for each person
NAME.npz, or of several NAME_1.npz and so on, whose arrays begin with the frames that
show the person, frames and times_s. Without boxes one person is followed, who at first
fills the picture; a video's boxes in the file hold for all its frames. With
--parameters NAME.glb and NAME.bvh are animated, and betas are one shape for all
frames. Joints, vertices and camera are smoothed over time, as strongly as --smoothing
says.

In boxes a picture goes by its path, the end of its path, or its bare name. A fifth
number of a box, a detector's score, is ignored. FOLDER may hold other files: none is
replaced that predict did not write, or that was changed since, and what predict wrote
into a folder is not taken for a picture of it.
"""

import collections
import sys
from collections.abc import Sequence

from absl import flags

from metro_jax import command_line, files, outputs
from metro_jax.body import hand
from metro_jax.checkpoints import bucket, embedded, runs
from metro_jax.inference import batch, body_files, boxes, photographs, video_batch
from metro_jax.inference.body_files import Contents
from metro_jax.inference.predictor import (
  make_batch_predictor,
  make_fitter,
  make_predictor,
)
from metro_jax.inference.videos import is_video
from metro_jax.outputs import Outputs
from metro_jax.text_files import printable

FLAGS = flags.FLAGS
COMMAND = "predict"
COLORS = ("plain", "photograph")


def define_flags() -> None:
  """Defines the command's flags."""
  text = 'Folder of a training run; "embedded" is the network of the package.'
  flags.DEFINE_string("workdir", embedded.NAME, text)
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  text = "Where to write; WORKDIR/predictions by default, or predictions."
  flags.DEFINE_string("output", None, text)
  flags.DEFINE_string(
    "boxes",
    None,
    'JSON file: {"photo.jpg": [[left, top, right, bottom], ...]}, pixels. Names may '
    "be paths; [] means nobody; pictures without an entry are taken whole.",
  )
  flags.DEFINE_float(
    "box_scale",
    photographs.BOX_SCALE,
    "The network's square, as a multiple of a box's longer side.",
    0.1,
  )
  flags.DEFINE_float(
    "focal_px", 0.0, "Focal length of the photograph; 0 takes its diagonal.", 0.0
  )
  text = "Looks at each person, 1 or 2; 0 takes as many as the network was trained for."
  flags.DEFINE_integer("passes", 0, text, 0, 2)
  text = "Of a hand's network: left ones are seen in a mirror."
  flags.DEFINE_enum("hand", hand.SIDES[0], hand.SIDES, text)
  text = "Fit the body model: its parameters go into the npz, a rig into the GLB."
  flags.DEFINE_bool("parameters", False, text)
  text = f"Mesh files of each person, any of {', '.join(body_files.FORMATS)}."
  flags.DEFINE_list("formats", ["glb", "obj"], text)
  text = f"Pictures of each mesh alone, any of {', '.join(body_files.VIEWS)}."
  flags.DEFINE_list("views", [], text)
  text = "Of the meshes: all alike, or as the photograph shows them."
  flags.DEFINE_enum("colors", "plain", COLORS, text)
  text = "Of people in videos, over time: 1 is the default's strength, 0 is none."
  flags.DEFINE_float("smoothing", 1.0, text, 0.0)


def summary(
  found: photographs.Found,
  matched: boxes.Matched | None,
  report: batch.Report,
  folder: object,
) -> str:
  """What was done, left out and passed over."""
  into = printable(str(folder))
  pictures = sum(not is_video(path) for path in found.pictures)
  lines = [f"Predicted {report.done} of {pictures} pictures into {into}"]
  left_out = report.kinds + collections.Counter(listing=len(found.refused))
  if left_out.total():
    lines.append(f"Left out: {photographs.count_kinds(left_out)}")
  if found.passed_over:
    over = photographs.count_kinds(found.passed_over)
    lines.append(f"Passed over in folders: {over}")
  if matched is not None:
    whole, empty = matched.entries.count(None), matched.entries.count([])
    listed = len(matched.entries) - whole
    lines.append(
      f"Boxes: {listed} pictures listed ({empty} with nobody), {whole} not listed and "
      "taken whole"
    )
  return "\n".join(lines)


def parse_contents(formats: Sequence[str], views: Sequence[str]) -> Contents:
  """Reads --formats and --views.

  Raises:
    ValueError: If one is unknown.
  """
  known = (("formats", formats, body_files.FORMATS), ("views", views, body_files.VIEWS))
  for flag, given, possible in known:
    for name in given:
      if name not in possible:
        raise ValueError(
          f"--{flag}: expected any of {', '.join(possible)}, got {printable(name)!r}"
        )
  return Contents(*(tuple(dict.fromkeys(given)) for given in (formats, views)))


def main(arguments: list[str]) -> int:
  workdir = FLAGS.workdir
  beside = "" if workdir == embedded.NAME else f"{workdir.rstrip('/')}/"
  output = FLAGS.output or f"{beside}predictions"
  bucket.expect_usable(workdir, writes=False)
  bucket.expect_usable(output)
  found = photographs.find(arguments, lambda folder: Outputs(folder, COMMAND).wrote)
  matched = None
  if FLAGS.boxes:
    matched = boxes.match(boxes.read(files.expand_home(FLAGS.boxes)), found.pictures)
  contents = parse_contents(FLAGS.formats, FLAGS.views)
  jobs = batch.plan(found.pictures, matched.entries if matched else None, contents)
  with bucket.RunFolder(output, fetched=[outputs.LEDGER]) as folder:
    place = Outputs(folder.local, COMMAND, folder.address)
    batch.expect_free(jobs, place)
    run = runs.load(workdir, runs.parse_checkpoint(FLAGS.checkpoint))
    left = FLAGS.hand == "left"
    if left and not run.network.body.is_hand:
      raise ValueError(
        f"--hand: expected a network of hands, {workdir} has one of bodies"
      )
    if FLAGS.passes == 2 and run.network.body.is_hand:
      raise ValueError("--passes: expected 1 of a network of hands, got 2")
    remarks = [*found.refused]
    if matched and matched.absent:
      remarks.append(f"boxes: {boxes.say(matched.absent)}")
    for line in remarks:
      print(f"{COMMAND}: {line}", file=sys.stderr)
    fit = make_fitter(run, left) if FLAGS.parameters else None
    colored = FLAGS.colors == "photograph"
    options = batch.Options(
      place, FLAGS.box_scale, FLAGS.focal_px, contents, fit, colored
    )
    report, passes = batch.Report(), FLAGS.passes or None
    if pictures := [job for job in jobs if not is_video(job.path)]:
      report = batch.predict_all(pictures, make_predictor(run, left, passes), options)
    clips = [video_batch.make_clip(job) for job in jobs if is_video(job.path)]
    if clips:
      predict = make_batch_predictor(run, left, passes)
      done = video_batch.predict_all(clips, predict, options, report, FLAGS.smoothing)
  print(summary(found, matched, report, folder.address))
  if clips:
    print(
      f"Videos: {done.videos} of {len(clips)} predicted, {done.frames:,} frames, "
      f"{done.people} people"
    )
  return 1 if report.failures or found.refused else 0


if __name__ == "__main__":
  define_flags()
  command_line.run(COMMAND, main)
