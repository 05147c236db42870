"""The page that a run leaves behind: one HTML file that needs nothing beside it."""

import base64
import html
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from metro_jax import files
from metro_jax.rendering import charts

JPEG_QUALITY = 90


class ErrorRow(NamedTuple):
  """One metric of the network beside the same metric of the baseline."""

  name: str
  meaning: str
  network_mm: float
  baseline_mm: float


class Picture(NamedTuple):
  """One picture's views side by side, and its errors, where they are known."""

  title: str
  images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
  captions: Sequence[str]  # one an image
  errors: Mapping[str, str]


class Report(NamedTuple):
  """Everything that the page shows, in its order."""

  title: str
  summary: str  # a sentence below the title
  errors: Sequence[ErrorRow]
  baseline: str  # what the baseline is, in words
  protocol: str  # how the errors are measured, in words
  pictures: Sequence[Picture]  # of the test split
  charts: Sequence[charts.Chart]
  facts: Mapping[str, str]  # duration, devices, versions, ...
  config_text: str
  photographs: Sequence[Picture] = ()


def write_report(path: str | os.PathLike[str], report: Report) -> None:
  """Writes the page; pictures are embedded, nothing is loaded from elsewhere.

  Args:
    path: The file; its folder must exist. It is replaced as a whole.
    report: What to show.
  """
  with files.replacing(path) as partial:
    partial.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
  """Returns the page as text."""
  title = html.escape(report.title)
  sections = [
    _section("Errors", _errors(report)),
    _section("Photographs", "".join(map(_picture, report.photographs))),
    _section("Examples", "".join(map(_picture, report.pictures))),
    _section(
      "Curves",
      f'<div class="charts">{"".join(map(charts.svg, report.charts))}</div>',
    ),
    _section("Run", _facts(report.facts)),
    _section("Config", f"<pre>{html.escape(report.config_text)}</pre>"),
  ]
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
    f"<header><h1>{title}</h1><p>{html.escape(report.summary)}</p></header>"
    f"{''.join(sections)}</main></body></html>\n"
  )


def image_tag(image: UInt8[np.ndarray, "h w 3"], alt: str) -> str:
  """Returns an `<img>` that carries the RGB picture itself, as JPEG.

  Raises:
    ValueError: If the picture cannot be encoded.
  """
  done, data = cv2.imencode(
    ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  )
  if not done:
    raise ValueError(f"report: could not encode a picture of shape {image.shape}")
  height, width = image.shape[:2]
  text = base64.b64encode(data.tobytes()).decode("ascii")
  return (
    f'<img src="data:image/jpeg;base64,{text}" alt="{html.escape(alt)}"'
    f' width="{width}" height="{height}">'
  )


def _section(title: str, body: str) -> str:
  return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _errors(report: Report) -> str:
  largest = max((_largest(row) for row in report.errors), default=1.0)
  rows = "".join(_error_row(row, largest) for row in report.errors)
  return (
    '<div class="scroll"><table><thead><tr><th>Metric</th><th>Network</th>'
    '<th>Baseline</th><th>Change</th><th class="bars" aria-hidden="true"></th></tr>'
    f"</thead><tbody>{rows}</tbody></table></div>"
    f'<p class="note"><b>Protocol.</b> {html.escape(report.protocol)}</p>'
    f'<p class="note"><b>Baseline.</b> {html.escape(report.baseline)}</p>'
  )


def _largest(row: ErrorRow) -> float:
  return max(row.network_mm, row.baseline_mm, 1e-9)


def _error_row(row: ErrorRow, largest: float) -> str:
  change = 100 * (row.network_mm / max(row.baseline_mm, 1e-9) - 1)
  kind = "better" if change < 0 else "worse"
  change_text = f"{change:+.0f} %".replace("-", "\u2212")
  bars = "".join(
    f'<i class="{name}" style="width:{100 * value / largest:.1f}%"></i>'
    for name, value in (("network", row.network_mm), ("baseline", row.baseline_mm))
  )
  return (
    f"<tr><th><b>{html.escape(row.name)}</b>"
    f'<span class="soft">{html.escape(row.meaning)}</span></th>'
    f'<td class="big">{row.network_mm:.1f}<small>mm</small></td>'
    f"<td>{row.baseline_mm:.1f}<small>mm</small></td>"
    f'<td class="{kind}">{change_text}</td>'
    f'<td class="bars" aria-hidden="true">{bars}</td></tr>'
  )


def _picture(picture: Picture) -> str:
  figures = "".join(
    f"<figure>{image_tag(image, f'{picture.title}: {caption}')}"
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    for image, caption in zip(picture.images, picture.captions, strict=True)
  )
  errors = "".join(
    f"<span>{html.escape(name)} <b>{html.escape(value)}</b></span>"
    for name, value in picture.errors.items()
  )
  return (
    f'<article><h3>{html.escape(picture.title)}</h3><p class="chips">{errors}</p>'
    f'<div class="strip">{figures}</div></article>'
  )


def _facts(facts: Mapping[str, str]) -> str:
  items = "".join(
    f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
    for name, value in facts.items()
  )
  return f"<dl>{items}</dl>" if items else ""


STYLE = """
:root{color-scheme:light dark;--paper:#f5f6f8;--card:#fff;--ink:#1d2229;--soft:#677180;
--line:#e1e4ea;--network:#3f7ae0;--baseline:#b9c0cb;--better:#14805e;--worse:#b8472a}
@media (prefers-color-scheme:dark){:root{--paper:#12151a;--card:#1b2027;--ink:#e8ebf0;
--soft:#98a2b1;--line:#2d343e;--network:#5c92f0;--baseline:#525c6a;--better:#4cc79b;
--worse:#ee8a66}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
header{margin-bottom:28px}
h1{font-size:28px;line-height:1.2;letter-spacing:-.01em;margin:0 0 6px}
header p{margin:0;color:var(--soft);font-size:16px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:22px 26px 24px;margin-bottom:20px}
h2{font-size:17px;margin:0 0 14px}
h3{font-size:14px;margin:0}
.soft{color:var(--soft)}
.note{margin:14px 0 0;color:var(--soft);max-width:92ch}
.note+.note{margin-top:6px}
.note b{color:var(--ink)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
thead th{font-size:12px;font-weight:600;color:var(--soft);border:0;padding:0 14px 6px}
th,td{text-align:right;padding:11px 14px;border-top:1px solid var(--line);
white-space:nowrap}
th:first-child{text-align:left;padding-left:0;font-weight:400}
tbody th b{font-size:16px}
tbody th span{display:block;font-size:13px;white-space:normal;min-width:15em}
td{font-size:17px}
td.big{font-size:24px;font-weight:650}
small{font-size:12px;font-weight:400;color:var(--soft);margin-left:3px}
.better{color:var(--better);font-weight:600}
.worse{color:var(--worse);font-weight:600}
.bars{width:26%;min-width:120px;padding-right:0}
.bars i{display:block;height:9px;border-radius:0 4px 4px 0;margin:3px 0}
i.network{background:var(--network)}
i.baseline{background:var(--baseline)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));
gap:26px 34px}
figure{margin:0}
.chart figcaption{font-weight:600;margin-bottom:6px}
.chart svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
svg .label{fill:var(--ink)}
.grid{stroke:var(--line)}
.axis{stroke:var(--soft)}
.curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.level{stroke-width:1.5;stroke-dasharray:5 5;opacity:.75}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0 0;
padding:0;font-size:13px}
.legend b{font-variant-numeric:tabular-nums;margin-left:3px}
.key{display:inline-block;width:18px;border-top:3px solid;margin-right:7px;
vertical-align:middle}
.dashed{border-top-style:dashed;opacity:.75}
article{padding:16px 0;border-top:1px solid var(--line);display:grid;
grid-template-columns:190px 1fr;grid-template-rows:auto 1fr;gap:4px 26px}
article:first-of-type{border:0;padding-top:0}
article:last-of-type{padding-bottom:0}
.chips{margin:0;font-size:13px;color:var(--soft)}
.chips span{display:flex;justify-content:space-between;padding:3px 0}
.chips b{color:var(--ink);font-variant-numeric:tabular-nums}
.strip{grid-column:2;grid-row:1/3;display:grid;gap:12px;
grid-template-columns:repeat(3,minmax(0,1fr))}
.strip img{display:block;width:100%;height:auto;border-radius:8px}
.strip figcaption{font-size:12px;color:var(--soft);margin-top:5px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:14px 26px;
margin:0}
dt{font-size:12px;color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
pre{margin:0;max-height:420px;overflow:auto;font:12.5px/1.5 ui-monospace,
"DejaVu Sans Mono",monospace;color:var(--ink)}
@media (max-width:720px){main{padding:24px 12px}section{padding:16px}
article{display:block}.strip{margin-top:10px}.bars{display:none}
th,td{padding:9px 6px}tbody th span{min-width:8em}td{font-size:15px}
td.big{font-size:19px}}
@media print{section{break-inside:avoid}pre{max-height:none}}
"""
