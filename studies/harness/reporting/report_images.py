"""The figures of a report: inlined, with the caption and the size that each file carries."""

from __future__ import annotations

import html
import re
import struct
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

from evidentia.studies.harness.storage.read_run import read_image

INCH, DENSE = 110, 1.45
"""CSS pixels for an inch of a figure, so that its text has the page's size; pixels for each else."""


@final
class FigureView(NamedTuple):
    """A figure of the page, inlined."""

    uri: str
    caption: str
    width: int | None
    """In CSS pixels; None leaves it to the image."""


def figure_view(path: Path) -> FigureView:
    """One figure inlined, with the caption it carries or else its name."""
    data = read_image(path)
    kind = "image/png" if path.suffix == ".png" else "image/svg+xml"
    caption = png_text(data) if path.suffix == ".png" else svg_text(data)
    width = png_width(data) if path.suffix == ".png" else None
    return FigureView(
        f"data:{kind};base64,{b64encode(data).decode('ascii')}",
        caption or path.stem.replace("_", " ").replace("-", " ").capitalize(),
        width,
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk of a PNG file; stops where the file is cut off."""
    place = 8 if data.startswith(b"\x89PNG\r\n\x1a\n") else len(data)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def png_width(data: bytes) -> int | None:
    """Width on the page in CSS pixels, from the size in inches where the file has one."""
    pixels, per_metre = 0, 0
    for kind, body in png_chunks(data):
        if kind == b"IHDR" and len(body) >= 4:
            (pixels,) = struct.unpack(">I", body[:4])
        if kind == b"pHYs" and len(body) == 9 and body[8] == 1:
            (per_metre,) = struct.unpack(">I", body[:4])
    if not pixels:
        return None
    return round(pixels / (per_metre * 0.0254) * INCH) if per_metre else round(pixels / DENSE)


def png_text(data: bytes, key: bytes = b"Description") -> str:
    """The text stored under a key in a PNG file, empty if there is none."""
    for kind, body in png_chunks(data):
        if kind == b"tEXt" and body.startswith(key + b"\0"):
            return body[len(key) + 1 :].decode("latin-1").strip()
        # iTXt: keyword, NUL, two flags (uncompressed: 0 0), language, NUL, translated keyword, NUL, text
        if kind == b"iTXt" and body.startswith(key + b"\0\0\0"):
            return body[len(key) + 3 :].split(b"\0", 2)[-1].decode("utf-8", "replace").strip()
    return ""


def svg_text(data: bytes) -> str:
    """The description stored in an SVG file, empty if there is none."""
    found = re.search(rb"<dc:description>(.*?)</dc:description>", data, re.DOTALL)
    return html.unescape(found.group(1).decode("utf-8", "replace")).strip() if found else ""
