"""From the bytes of a photograph to network input: decode, detect, align, normalise.

The only owner of crop sizes, templates and colour order; training and serving use the same code.
"""

from facemargin.preprocessing.align import TEMPLATES, Template, align, similarity_transform, template_named
from facemargin.preprocessing.decode import (
    ACCEPTED_FORMATS,
    DEFAULT_LIMITS,
    IMAGE_SUFFIXES,
    ImageLimits,
    decode,
    encode_jpeg,
    encode_png,
    read_image,
)
from facemargin.preprocessing.detect import Detector, Face, central_face, one_face
from facemargin.preprocessing.normalise import PRESETS, Preprocessing

__all__ = [
    "ACCEPTED_FORMATS",
    "DEFAULT_LIMITS",
    "IMAGE_SUFFIXES",
    "PRESETS",
    "TEMPLATES",
    "Detector",
    "Face",
    "ImageLimits",
    "Preprocessing",
    "Template",
    "align",
    "central_face",
    "decode",
    "encode_jpeg",
    "encode_png",
    "one_face",
    "read_image",
    "similarity_transform",
    "template_named",
]
