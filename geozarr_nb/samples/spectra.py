"""Colours of the landscape: what each cover reflects, at the wavelengths of Sentinel-2's bands."""

from __future__ import annotations

import numpy as np

from geozarr_nb.samples.landscape import Block, Cover, Field

# Surface reflectance of each cover, in the order of `Cover`.
SPECTRA: dict[str, tuple[float, ...]] = {
    #       cloud  snow  water  town   rock forest meadow crop stubble soil
    "b01": (0.420, 0.55, 0.030, 0.100, 0.090, 0.020, 0.025, 0.030, 0.060, 0.050),
    "b02": (0.430, 0.56, 0.038, 0.120, 0.105, 0.027, 0.035, 0.045, 0.085, 0.070),
    "b03": (0.440, 0.55, 0.048, 0.138, 0.130, 0.048, 0.072, 0.082, 0.130, 0.100),
    "b04": (0.450, 0.54, 0.024, 0.152, 0.146, 0.032, 0.046, 0.064, 0.165, 0.135),
    "b05": (0.460, 0.53, 0.018, 0.165, 0.165, 0.065, 0.110, 0.130, 0.200, 0.155),
    "b06": (0.470, 0.51, 0.014, 0.180, 0.175, 0.170, 0.290, 0.240, 0.220, 0.170),
    "b07": (0.480, 0.50, 0.012, 0.190, 0.180, 0.220, 0.360, 0.280, 0.240, 0.180),
    "b08": (0.490, 0.48, 0.011, 0.200, 0.185, 0.240, 0.380, 0.300, 0.260, 0.200),
    "b8a": (0.490, 0.46, 0.010, 0.210, 0.190, 0.260, 0.400, 0.320, 0.280, 0.210),
    "b09": (0.360, 0.40, 0.009, 0.210, 0.195, 0.260, 0.400, 0.330, 0.290, 0.220),
    "b11": (0.380, 0.10, 0.005, 0.240, 0.230, 0.120, 0.200, 0.240, 0.360, 0.300),
    "b12": (0.300, 0.08, 0.004, 0.220, 0.215, 0.055, 0.100, 0.140, 0.280, 0.260),
}
WAVELENGTHS: dict[str, float] = {  # nm
    "b01": 442.7,
    "b02": 492.7,
    "b03": 559.8,
    "b04": 664.6,
    "b05": 704.1,
    "b06": 740.5,
    "b07": 782.8,
    "b08": 832.8,
    "b8a": 864.7,
    "b09": 945.1,
    "b11": 1613.7,
    "b12": 2202.4,
}


def spectrum_at(wavelength: float) -> tuple[float, ...]:
    """Reflectance of each cover at any wavelength in nm, between the bands' by linear interpolation."""
    known = list(WAVELENGTHS.values())
    values = np.array([SPECTRA[band] for band in WAVELENGTHS])
    return tuple(float(np.interp(wavelength, known, column)) for column in values.T)


def ground_reflectance(spectrum: tuple[float, ...], block: Block) -> Field:
    """Reflectance of pixels without their atmosphere, from the reflectance of each cover."""
    cloud, *ground = spectrum
    reflectance = np.zeros_like(block.light)
    for share, value in zip(block.cover[Cover.SNOW :], ground, strict=True):
        reflectance += np.float32(value) * share
    reflectance *= block.light
    reflectance *= 1 + block.grain
    # Thick cloud is uneven too, and it is not shaded by what lies below it.
    reflectance += block.cover[Cover.CLOUD] * np.float32(cloud) * (1 + 0.5 * block.grain)
    return reflectance
