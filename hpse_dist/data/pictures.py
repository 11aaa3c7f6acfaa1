"""Pictures of any origin, read in one place: nothing is decoded before its header was believed.

A picture file may be broken, or made to harm: a header that promises 100,000 x 100,000 pixels makes
a decoder ask for 30 GB, and some of Pillow's formats start other programs. Here only formats of
photographs are known, and size is looked at first.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hpse_dist.safety import one_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
MOST_PIXELS = 1 << 26  # 67 megapixels, as RGB 200 MB
MOST_SIDE = 1 << 15
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


class Unreadable(ValueError):
    """A picture that cannot be used; the message is the reason its reject gives."""


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) as displayed, from the header alone; raises Unreadable."""
    with _opened(path) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation) in _TURNED
        width, height = picture.size
    return (height, width) if turned else (width, height)


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB as displayed (EXIF orientation applied); raises Unreadable."""
    with _opened(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def read_grey(path: Path) -> np.ndarray:
    """(H, W) uint8 as stored, for masks; raises Unreadable."""
    with _opened(path) as picture:
        return np.asarray(picture.convert("L"))


def read_numbers(path: Path) -> np.ndarray:
    """(H, W) uint8 as stored, a grey value's or a palette's number each; raises Unreadable."""
    with _opened(path) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise Unreadable(f"it has colours ({picture.mode}), where each pixel is one number")
        return np.asarray(picture, np.uint8)


def believed_size(width: float, height: float) -> None:
    """Raise Unreadable unless a picture of that size may be decoded."""
    if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE and width * height <= MOST_PIXELS):
        raise Unreadable(
            f"a picture of {width:.0f} x {height:.0f} pixels is not believed: at most {MOST_SIDE} "
            f"a side and {MOST_PIXELS} in all are read"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read and believed; whatever Pillow raises becomes Unreadable."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of what `believed_size` refuses, and of broken tags of good pictures
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=FORMATS)
            with picture:
                believed_size(*picture.size)
                yield picture
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable("the picture is missing") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise Unreadable(f"the picture cannot be read: it is none of {kinds}, or broken") from None
    except Image.DecompressionBombError:
        raise Unreadable("a picture of so many pixels is not believed") from None
    # a decoder raises what it likes for a broken file (SyntaxError, struct.error, KeyError ...)
    except Exception as error:
        words = one_line(str(error)) or type(error).__name__
        raise Unreadable(f"the picture cannot be read: {words[:200]}") from None
