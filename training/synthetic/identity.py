"""Who a drawn person is: everything that stays the same from picture to picture.

Lengths are in face units: half of the distance between the eyes is about 0.36, x points right, y down, z to the viewer,
the origin lies between the eyes. Colours are RGB in 0…255.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]
HairStyle = Literal["bald", "short", "parted", "fringe", "curly", "long", "bob"]
Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
Glasses = Literal["none", "round", "square"]

_SKIN = np.array(
    [(74, 46, 33), (112, 72, 50), (157, 108, 78), (196, 146, 113), (224, 180, 150), (240, 206, 184)], float
)
_HAIR = np.array(
    [(22, 18, 17), (52, 35, 26), (92, 60, 38), (139, 96, 56), (190, 150, 96), (125, 56, 30), (150, 146, 142)]
)
_IRIS = np.array([(58, 36, 22), (92, 60, 32), (96, 98, 52), (76, 118, 84), (82, 122, 150), (110, 124, 132)], float)
_FRAME = np.array([(25, 25, 28), (92, 58, 34), (140, 142, 148), (120, 30, 34), (38, 52, 96)], float)


def _mixed(palette: NDArray[np.float64], rng: np.random.Generator, spread: float) -> Colour:
    """A colour between two neighbours of a palette, slightly off."""
    place = rng.uniform(0, len(palette) - 1)
    low = int(place)
    colour = palette[low] + (place - low) * (palette[min(low + 1, len(palette) - 1)] - palette[low])
    mixed: Colour = np.clip(colour + rng.normal(0, spread, 3), 5, 250)
    return mixed


@dataclass(frozen=True, eq=False)
class Identity:
    """One drawn person.

    Attributes name the part and the quantity; lengths are in face units, angles in radians, the rest are colours,
    styles and positions of freckles and moles (x, y in face units).
    """

    half_width: float
    jaw_width: float
    chin_y: float
    crown_y: float
    jaw_power: float
    ear_size: float
    skin: Colour
    blush: float
    eye_x: float
    eye_width: float
    eye_height: float
    eye_tilt_rad: float
    lid: float
    iris: Colour
    iris_size: float
    lashes: float
    brow_gap: float
    brow_thickness: float
    brow_arch: float
    brow_tilt_rad: float
    brow_colour: Colour
    nose_y: float
    nose_width: float
    nose_length: float
    nose_bridge: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    lip_curve: float
    lip: Colour
    hair: Colour
    hair_style: HairStyle
    hairline_y: float
    hair_volume: float
    parting: float
    beard: Beard
    beard_colour: Colour
    glasses: Glasses
    glasses_size: float
    frame: Colour
    spots: NDArray[np.float64]
    spot_size: float
    folds: float


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person drawn from the population; every trait is independent but the colours of hair, brows and beard,
    and hair, which is mostly dark where skin is."""

    def vary(centre: float, spread: float, limit: float = 2.2) -> float:
        return centre + spread * float(np.clip(rng.normal(), -limit, limit))

    skin = _mixed(_SKIN, rng, 4)
    light = float(skin.mean()) / 255
    hair = _mixed(_HAIR if light > 0.5 or rng.random() < 0.1 else _HAIR[:3], rng, 5)
    lip = np.clip(skin * (0.86, 0.60, 0.60) + rng.uniform(-14, 22) * np.array((1.0, 0.25, 0.35)), 10, 240)
    masculine = rng.random() < 0.5
    beard: Beard = "none"
    if masculine:
        beard = rng.choice(np.array(["none", "stubble", "moustache", "goatee", "full"]), p=[0.46, 0.2, 0.1, 0.1, 0.14])
    styles = ["bald", "short", "parted", "fringe", "curly", "long", "bob"]
    odds = [0.16, 0.34, 0.2, 0.12, 0.14, 0.03, 0.01] if masculine else [0.0, 0.07, 0.11, 0.17, 0.2, 0.25, 0.2]
    freckled = rng.random() < 0.22
    spots = rng.normal((0, 0.32), (0.36, 0.13), (26, 2)) if freckled else rng.uniform((-0.6, -0.4), (0.6, 1.0), (2, 2))
    return Identity(
        half_width=vary(0.83, 0.06),
        jaw_width=vary(0.60 + 0.05 * masculine, 0.09),
        chin_y=vary(1.26, 0.08),
        crown_y=vary(-1.12, 0.08),
        jaw_power=vary(2.5, 0.35),
        ear_size=vary(0.2, 0.035),
        skin=skin,
        blush=float(rng.uniform(0, 0.5)) * light,
        eye_x=vary(0.36, 0.022),
        eye_width=vary(0.172, 0.017),
        eye_height=vary(0.092, 0.014),
        eye_tilt_rad=vary(0.04, 0.09),
        lid=float(rng.uniform(0, 1)),
        iris=_mixed(_IRIS, rng, 6),
        iris_size=vary(0.075, 0.005),
        lashes=float(rng.uniform(0.15, 0.5) if masculine else rng.uniform(0.4, 1.0)),
        brow_gap=vary(0.205, 0.032),
        brow_thickness=vary(0.055 if masculine else 0.04, 0.016),
        brow_arch=vary(0.05, 0.03),
        brow_tilt_rad=vary(-0.03, 0.1),
        brow_colour=np.clip(hair * rng.uniform(0.55, 0.95), 8, 200),
        nose_y=vary(0.42, 0.04),
        nose_width=vary(0.165, 0.03),
        nose_length=vary(0.26, 0.05),
        nose_bridge=vary(0.065, 0.016),
        mouth_y=vary(0.83, 0.04),
        mouth_width=vary(0.3, 0.035),
        upper_lip=vary(0.055, 0.018),
        lower_lip=vary(0.078, 0.02),
        lip_curve=vary(0.0, 0.022),
        lip=lip,
        hair=hair,
        hair_style=rng.choice(np.array(styles), p=odds),
        hairline_y=vary(-0.66, 0.09),
        hair_volume=vary(0.16, 0.05),
        parting=float(rng.uniform(-0.45, 0.45)),
        beard=beard,
        beard_colour=np.clip(hair * rng.uniform(0.7, 1.05), 8, 215),
        glasses=rng.choice(np.array(["none", "round", "square"]), p=[0.76, 0.12, 0.12]),
        glasses_size=vary(0.25, 0.025),
        frame=_FRAME[rng.integers(len(_FRAME))],
        spots=spots,
        spot_size=0.012 if freckled else float(rng.uniform(0, 0.032)),
        folds=float(rng.uniform(0, 1)),
    )
