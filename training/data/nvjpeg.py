"""JPEG files decoded on a CUDA device by nvJPEG, through torchvision.

Owns which files may take that way: those for which nvJPEG means the same picture as the decoder of
`facemargin.preprocessing`, up to rounding and the interpolation of subsampled colour. All others are left to that one.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from facemargin.errors import ConfigError
from facemargin.preprocessing import encode_jpeg, template_named

_BASELINE, _PROGRESSIVE, _SCAN, _EXIF, _ADOBE = 0xC0, 0xC2, 0xDA, 0xE1, 0xEE


class NvjpegDecoder:
    """Decodes aligned JPEG crops in batches on the GPU and brings them back, for the augmentation on the CPU."""

    def __init__(self, device: torch.device, template: str) -> None:
        """Try the decoder once.

        Args:
            device: a CUDA device.
            template: crops of another size than this alignment template's are left to the CPU.

        Raises:
            ConfigError: another device, or PyTorch or torchvision without what it takes.
        """
        self.device, self.size = device, template_named(template).size
        if device.type != "cuda" or not torch.cuda.is_available():
            raise ConfigError(
                f'data.decode = "cuda" needs a CUDA device, and this run is on {device}; set data.decode = "cpu"'
            )
        try:
            self._decode([encode_jpeg(np.zeros((16, 16, 3), dtype=np.uint8))])
        except (ImportError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f'data.decode = "cuda" needs a torchvision with nvJPEG ({reason}); set data.decode = "cpu"'
            ) from error

    def __call__(self, files: list[bytes]) -> list[NDArray[np.uint8] | None]:
        """Decode what can be decoded here.

        Args:
            files: the bytes of N files.

        Returns:
            For each the pixels, uint8 (H, W, 3), RGB, or None where the CPU has to: no JPEG, a truncated or damaged
            one, one with EXIF data or in other colours than grey and YCbCr, or of another size than the template's.
            One damaged file leaves the whole call to the CPU, which then names it.
        """
        found: list[NDArray[np.uint8] | None] = [None] * len(files)
        places = [place for place, data in enumerate(files) if plain_jpeg_size(data) == self.size]
        if not places:
            return found
        try:
            crops = self._decode([files[place] for place in places])
        except RuntimeError:
            return found
        for place, crop in zip(places, crops, strict=True):
            found[place] = crop
        return found

    def _decode(self, files: list[bytes]) -> NDArray[np.uint8]:
        from torchvision.io import ImageReadMode, decode_jpeg  # not at import: a future torchvision drops it

        warnings.filterwarnings("ignore", message=".*TorchVision are deprecated", category=DeprecationWarning)
        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=self.device)
        pixels: NDArray[np.uint8] = torch.stack(decoded).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pixels


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a complete 8-bit JPEG in grey or YCbCr without EXIF data; None for everything else."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return None
    size, at = None, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, segment = data[at + 1], data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
        if marker == _SCAN:
            return size
        if marker == _ADOBE or (marker == _EXIF and segment.startswith(b"Exif")):  # other colours, another orientation
            return None
        if marker in (_BASELINE, _PROGRESSIVE):
            ids = tuple(segment[6::3])
            if len(segment) < 6 or segment[0] != 8 or (len(ids) != 1 and ids != (1, 2, 3)):
                return None
            size = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
        at += 4 + len(segment)
    return None
