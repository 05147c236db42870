import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from metro_jax.rendering import charts, report

VOID = {"meta", "img", "br", "line", "path", "circle"}


class Balance(HTMLParser):
  """Checks that every element that opens also closes, in order."""

  def __init__(self):
    super().__init__()
    self.open, self.attributes = [], []

  def handle_starttag(self, tag, attrs):
    self.attributes += attrs
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag


def make(**changes):
  ramp = np.broadcast_to(np.arange(0, 240, 10, np.uint8)[:, None, None], (24, 20, 3))
  content = report.Report(
    title="Run <1>",
    summary="100 test examples.",
    errors=[report.ErrorRow("MPJPE", "14 joints", 60.0, 200.0)],
    baseline="the mean mesh",
    protocol="joints & hips",
    pictures=[
      report.Picture("test/3", [ramp, ramp], ["input", "overlay"], {"MPJPE": "61 mm"})
    ],
    charts=[charts.Chart("Loss", "L1", [charts.Curve("total", [1, 2], [2.0, 1.0])])],
    facts={"Duration": "3 min"},
    config_text="model:\n  backbone: resnet18 # <x>",
  )
  return content._replace(**changes)


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(tmp_path):
  path = tmp_path / "report.html"
  report.write_report(path, make())
  page = path.read_text()
  parser = Balance()
  parser.feed(page)
  assert parser.open == []
  links = [v for k, v in parser.attributes if k in ("src", "href", "srcset")]
  assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
  assert not re.search(r"https?://|@import|url\(|<script|<link", page)
  assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_page_says_errors_change_protocol_facts_and_config_escaped():
  page = report.render(make())
  for expected in (
    "Run &lt;1&gt;",
    "60.0<small>mm",
    "200.0<small>mm",
    '<td class="better">\u221270 %',  # 60 is 70 % below 200
    "joints &amp; hips",
    "the mean mesh",
    "61 mm",
    "<dd>3 min</dd>",
    "resnet18 # &lt;x&gt;",
    "<svg",
  ):
    assert expected in page


def test_a_network_worse_than_the_baseline_is_marked_so():
  worse = [report.ErrorRow("MPJPE", "", 110.0, 100.0)]
  assert '<td class="worse">+10 %' in report.render(make(errors=worse))


def test_pictures_are_embedded_in_rgb():
  red = np.zeros((16, 16, 3), np.uint8) + np.array([250, 5, 5], np.uint8)
  tag = report.image_tag(red, "a red square")
  data = base64.b64decode(re.search(r"base64,([^\"]*)", tag).group(1))
  bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_allclose(bgr[8, 8], [5, 5, 250], atol=6)
  assert 'width="16" height="16"' in tag and 'alt="a red square"' in tag


def test_empty_parts_are_left_out_and_missing_captions_refused():
  page = report.render(make(pictures=[], facts={}))
  assert "Examples" not in page and ">Run<" not in page
  picture = make().pictures[0]._replace(captions=["input"])
  with pytest.raises(ValueError):
    report.render(make(pictures=[picture]))
