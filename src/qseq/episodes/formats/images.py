"""Pictures as PNG (written) and PNG or JPEG (read). Sizes are checked before a pixel is decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np

from qseq.errors import DataError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def encode_png(pixels_HWC: np.ndarray) -> bytes:
    """uint8 [height, width, 1, 3 or 4] -> a lossless file."""
    from PIL import Image

    grey = pixels_HWC.shape[-1] == 1
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HWC[..., 0] if grey else pixels_HWC)).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_image(content: bytes, shape: tuple[int, int, int], where: str) -> np.ndarray:
    """The pixels of a file, uint8 of `shape` (height, width, channels).

    Raises:
        DataError: not a PNG or JPEG file, damaged, or of another size than promised; then nothing is decoded.
    """
    from PIL import Image

    height, width, channels = shape
    if channels not in _MODES:
        raise DataError(f"{where}: found {channels} channels, expected 1, 3 or 4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a picture that unpacks to gigabytes is only a warning to Pillow
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:  # reads the header only
                if image.size != (width, height):
                    raise DataError(
                        f"{where}: found a picture of {image.size[0]} x {image.size[1]}, expected {width} x {height}"
                    )
                pixels = np.asarray(image.convert(_MODES[channels]))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DataError(f"{where}: the picture cannot be decoded ({error})") from error
    return pixels.reshape(shape)
