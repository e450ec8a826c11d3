"""How pictures lie in a store: raw, or each frame for itself as JPEG or PNG.

A coding is written as a text: "raw", "png" (exact), "jpeg" or "jpeg:QUALITY" (1 to 100, scaled as libjpeg does). JPEG
keeps the colours at full resolution (4:4:4): in pictures of 64 pixels half of it blurs what an instruction names. All
frequencies are rounded to the same step. The tables of the standard spend bytes where people look; a network is served
by the smallest squared error, and for that equal steps are best (the reverse water-filling of rate-distortion theory;
Cover & Thomas, Elements of Information Theory, 2nd ed., Theorem 10.3.3).

Legend: H height, W width, C channels.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qseq.episodes.formats.images import decode_image, encode_png
from qseq.errors import DataError, RequestError

if TYPE_CHECKING:
    from qseq.episodes.schema import FieldSpec

RAW = "raw"
JPEG_QUALITY = 75
"""Where JPEG is as true as the films that LeRobot writes (docs/results.md)."""
_CHANNELS = (3, 1, 4)  # the likeliest first, for shapes that can be read both ways
_LARGEST_SIDE = 65_500  # of a JPEG file


def picture_layout(spec: FieldSpec) -> Literal["first", "last"] | None:
    """Where the channels of a camera's frame are; None for what is no picture."""
    if spec.dtype != "uint8" or len(spec.shape) != 3:
        return None
    for channels in _CHANNELS:
        if spec.shape[0] == channels:
            return "first"
        if spec.shape[2] == channels:
            return "last"
    return None


@dataclass(frozen=True)
class ImageCoding:
    """One frame to one file and back.

    Attributes:
        kind: "jpeg" or "png".
        quality: of JPEG.
    """

    kind: Literal["jpeg", "png"]
    quality: int = JPEG_QUALITY

    @classmethod
    def parse(cls, text: str) -> ImageCoding | None:
        """What a text means, None for "raw".

        Raises:
            RequestError: it is no coding, or its library is not installed.
        """
        kind, colon, quality = text.partition(":")
        if text == RAW:
            return None
        if text == "png":
            coding = cls("png")
        elif kind == "jpeg" and (not colon or (quality.isdecimal() and 1 <= int(quality) <= 100)):
            coding = cls("jpeg", int(quality) if colon else JPEG_QUALITY)
        else:
            raise RequestError(f"images: found {text!r}, expected raw, png, jpeg or jpeg:QUALITY (1 to 100)")
        _require_libraries()
        return coding

    def __str__(self) -> str:
        return self.kind if self.kind == "png" else f"jpeg:{self.quality}"

    def fits(self, spec: FieldSpec) -> bool:
        """Whether a field holds pictures that this coding can hold."""
        layout = picture_layout(spec)
        if layout is None or min(spec.shape) < 1 or max(spec.shape) > _LARGEST_SIDE:
            return False
        channels = spec.shape[0] if layout == "first" else spec.shape[2]
        return channels != 4 or self.kind == "png"

    def encode(self, frame_HWC: np.ndarray) -> bytes:
        """uint8 [H, W, C] -> a file."""
        if self.kind == "png":
            return encode_png(frame_HWC)
        from PIL import Image

        grey = frame_HWC.shape[-1] == 1
        picture = Image.fromarray(np.ascontiguousarray(frame_HWC[..., 0] if grey else frame_HWC))
        buffer = io.BytesIO()
        # Pillow, as it fits the Huffman tables to the picture: 5% (224 pixels) to 17% (64) smaller, decoded as fast.
        # One table for brightness and colours: the second would be a twentieth of a file of 64 x 64 pixels.
        table = [self.rounding_step] * 64
        picture.save(buffer, format="JPEG", qtables=[table], subsampling=0, optimize=True)
        return buffer.getvalue()

    @property
    def rounding_step(self) -> int:
        """To whose multiples JPEG rounds every frequency: 50 at quality 50, 25 at 75, 1 at 100; see libjpeg's scale."""
        scale = 50 / self.quality if self.quality < 50 else 2 - self.quality / 50
        return min(max(round(50 * scale), 1), 255)

    def decode(self, content: np.ndarray, out_HWC: np.ndarray, where: Callable[[], str]) -> None:
        """A file, uint8 [bytes], into pixels, uint8 [H, W, C] C-contiguous; `where` is how messages name it.

        Raises:
            DataError: damaged, or of another size than promised; then nothing is decoded.
        """
        if self.kind == "png":
            height, width, channels = out_HWC.shape
            out_HWC[...] = decode_image(content.tobytes(), (height, width, channels), where())
            return
        import simplejpeg

        self.check_size(content, out_HWC.shape[:2], where)
        colours = "GRAY" if out_HWC.shape[2] == 1 else "RGB"
        try:
            simplejpeg.decode_jpeg(content, colorspace=colours, buffer=out_HWC)
        except ValueError as error:
            raise DataError(f"{where()}: the picture cannot be decoded ({error})") from error

    def check_size(self, content: np.ndarray, size: tuple[int, ...], where: Callable[[], str]) -> None:
        """Read the header only. Raises DataError if the file does not hold (height, width) pixels."""
        if self.kind == "png":
            # Every PNG file begins with its signature, a length, "IHDR", then width and height.
            head = content[:24].tobytes()
            found = (int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big"))
            if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
                raise DataError(f"{where()}: the picture cannot be decoded (not a PNG file)")
        else:
            import simplejpeg

            try:
                found = tuple(simplejpeg.decode_jpeg_header(content)[:2])
            except ValueError as error:
                raise DataError(f"{where()}: the picture cannot be decoded ({error})") from error
        if found != tuple(size):
            raise DataError(f"{where()}: found a picture of {found[1]} x {found[0]}, expected {size[1]} x {size[0]}")


def checksum(content: bytes | np.ndarray) -> int:
    """crc32 of a file, bytes or uint8 [bytes]."""
    return zlib.crc32(content.data if isinstance(content, np.ndarray) else content)


def _require_libraries() -> None:
    try:
        import PIL  # noqa: F401
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise RequestError(f'compressed pictures need {error.name}: pip install "qseq[images]"') from error
