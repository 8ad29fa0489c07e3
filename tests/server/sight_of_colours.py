"""How different two colours look, to whom."""

from typing import Final

import numpy as np
import numpy.typing as npt

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency" (2009), severity 1.0; on linear RGB.
SIGHTS: Final = {
    "trichromat": np.eye(3),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
# Ottosson, "A perceptual color space for image processing" (2020): linear RGB to LMS, and on.
_TO_LMS: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _lab(colour: str, sight: str) -> npt.NDArray[np.float64]:
    """A colour such as ``#d55e00`` in OKLab, as ``sight`` has it."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(SIGHTS[sight] @ linear, 0, 1)
    return _TO_LAB @ np.cbrt(_TO_LMS @ seen)


def difference(one: str, other: str, sight: str) -> float:
    """How far apart two colours are in OKLab."""
    return float(np.linalg.norm(_lab(one, sight) - _lab(other, sight)))
