"""Small pictures of a picture, as MEGA's clients store them beside a file: a thumbnail and a preview.

Makes JPEG bytes from an image and knows nothing of nodes or uploads. Needs Pillow (the extra ``thumbnails``); without
it no image is one. Sizes: meganz/sdk, ``GfxProc::DIMENSIONS`` (a 200x200 square cut from the middle; inside
1000x1000).
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

_log = logging.getLogger(__name__)

THUMBNAIL_SIDE = 200
PREVIEW_SIDE = 1000
MOST_PIXELS = 40_000_000
"""An image that would be decoded to more than this is left alone: 160 MB at four bytes a pixel, and as much again where
they must be converted. JPEG is decoded at a fraction of its size, so that pictures of cameras stay below."""

# Formats that Pillow decodes by itself, in memory. Others call external programs (EPS) or are hardly tried.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
_QUALITY = 85

# How the camera was held (EXIF 2.3, tag 274), and what puts the picture upright. Done last, on the small one: neither
# the cut from the middle nor the square to fit into cares.
_ORIENTATION = 274
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}


def make_thumbnail(source: bytes | Path) -> bytes | None:
    """A 200x200 JPEG of the middle of an image, given as its bytes or as a file; None when it is not an image that can
    be read whole, or Pillow is not installed. Without the image's metadata. CPU-heavy: call in a thread."""
    return _make(source, THUMBNAIL_SIDE, square=True)


def make_preview(source: bytes | Path) -> bytes | None:
    """A JPEG of the whole image that fits into 1000x1000, never larger than the image; otherwise as
    ``make_thumbnail``."""
    return _make(source, PREVIEW_SIDE, square=False)


def _make(source: bytes | Path, side: int, *, square: bool) -> bytes | None:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            # The decoder may halve a JPEG up to three times; what it gives must not be smaller than the result.
            wanted = side / (min(image.size) if square else max(image.size))
            if wanted < 1:
                image.draft("RGB", (int(image.width * wanted) + 1, int(image.height * wanted) + 1))
            if image.width * image.height > MOST_PIXELS:
                return None
            image.load()
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            small: Image.Image = image if image.mode in ("RGB", "RGBA") else image.convert(
                "RGBA" if image.has_transparency_data else "RGB")
            if square:
                small = ImageOps.fit(small, (side, side))
            else:
                small.thumbnail((side, side))
            if small.mode == "RGBA":
                white = Image.new("RGBA", small.size, "white")
                small = Image.alpha_composite(white, small).convert("RGB")
            if turn is not None:
                small = small.transpose(Image.Transpose[turn])
            output = io.BytesIO()
            # A new image takes along neither place nor time of the picture, as a copy of this one would.
            plain = Image.new("RGB", small.size)
            plain.paste(small)
            plain.save(output, "JPEG", quality=_QUALITY, optimize=True)
            return output.getvalue()
    except Exception as error:    # noqa: BLE001 - decoders answer damaged files with whatever error they stumble into
        _log.debug("no small picture of a file: %s", type(error).__name__)
        return None
