"""Simulated breast ultrasound: a drawn anatomy, seen through a model of a linear-array scanner.

Physics, in the order in which `_scan` applies it:

- Tissue is a field of unresolved scatterers with complex Gaussian amplitude, whose variance is the tissue's
  echogenicity, plus coherent reflectors at interfaces; the image is that field convolved with the pulse-echo
  point-spread function (Bamber and Dickinson, "Ultrasonic B-scanning: a computer simulation", Phys. Med. Biol. 25
  (1980) 463). The envelope of a homogeneous region is then Rayleigh distributed, mean / deviation = 1.91
  (Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978) 1).
- The field is held at baseband: a scatterer's place within a pixel spreads over a wavelength, so its carrier phase
  is uniform, and the complex Gaussian amplitude stands for it.
- The lateral width of the point-spread function grows away from the focus as the radius of a Gaussian beam.
- Echoes lose strength along each line by what they pass: shadow below what attenuates more than the time-gain
  compensation assumes, enhancement below what attenuates less. Electronic noise does not.
- Several looks with independent scatterers are averaged in power, as spatial compounding does; then log compression.

Anatomy: skin, subcutaneous fat with septa, fibroglandular tissue with fat lobules, retromammary fat, pectoral muscle,
chest wall. Benign and malignant lesions differ by the signs of Stavros et al., "Solid breast nodules: use of
sonography to distinguish between benign and malignant lesions", Radiology 196 (1995) 123: oval, wider than tall, thin
capsule and edge shadows, against spiculated or angular, taller than wide, echogenic halo and posterior shadow. That
solid benign lesions enhance and malignant ones shadow is a tendency here as it is there.

Levels are in dB relative to fibroglandular tissue, lengths in mm, attenuation in dB per mm of depth there and back,
relative to what the time-gain compensation assumes. Fields are arrays (rows, columns) of float32.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter1d, label
from scipy.special import expit

Kind = Literal["benign", "malignant", "normal"]
Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator
Pixel = TypeVar("Pixel", bound=np.generic)

FAT = -8.0
MUSCLE = -9.0
CHEST_WALL = -15.0
PULSE = 0.10  # standard deviation of the point-spread function in depth
BEAM = 0.21  # and across, at the focus
FOCAL_RANGE = 9.0  # distance from the focus at which the beam is wider by the root of two
MARGIN = 4.0  # simulated on either side of the image, so that its borders see neighbours
SECOND_LESION = 0.07  # share of the images with a lesion that have two
CALLIPERS = 0.15  # share of the lesions that are annotated with callipers
CYSTS = 0.3  # share of the benign lesions
CYST_DEPTH = 14.0  # contrast of a cyst beyond that of a solid lesion
CALLIPER_GREY = 235
ANGLES = np.linspace(-np.pi, np.pi, 361)


@dataclass(frozen=True)
class Scan:
    """An image (height, width) uint8 and one mask of the same shape, bool, per lesion."""

    image: NDArray[np.uint8]
    masks: tuple[Mask, ...]


@dataclass(frozen=True)
class _Grid:
    """Pixel centres in mm: depth `z` (rows, 1), place across `x` (1, columns), 0 at the left border of the image."""

    z: Field
    x: Field
    spacing: float
    margin: int  # columns on either side that are cut off in the end

    @property
    def shape(self) -> tuple[int, int]:
        return self.z.shape[0], self.x.shape[1]

    @property
    def depth(self) -> float:
        return float(self.z.shape[0] * self.spacing)

    @property
    def breadth(self) -> float:
        return float((self.x.shape[1] - 2 * self.margin) * self.spacing)

    def cropped(self, field: NDArray[Pixel]) -> NDArray[Pixel]:
        return field[:, self.margin : field.shape[1] - self.margin]


@dataclass
class _Tissue:
    """Acoustic properties: scatterers' level (dB), coherent reflectors (amplitude), attenuation (dB per mm)."""

    level: Field
    reflectors: Field
    attenuation: Field


@dataclass(frozen=True)
class _Outline:
    """A star-shaped outline: centre and half axes (mm), tilt (rad), relative radius at equidistant angles."""

    x: float
    z: float
    half_width: float
    half_height: float
    tilt: float
    radius: NDArray[np.float64]
    roughness: float  # mm


@dataclass(frozen=True)
class _Nature:
    """The appearance of a lesion, apart from its outline."""

    contrast: float  # dB below what surrounds it
    texture: float  # dB, standard deviation
    edge: float  # mm over which its level fades into the surroundings
    capsule: float  # dB of the interface, relative to the surroundings
    halo: float  # dB of the band around it, relative to the surroundings
    attenuation: float  # dB per mm inside
    edge_shadow: float  # dB per mm below its flanks
    calcifications: int


def simulate(kind: Kind, width: int, contrast: tuple[float, float], looks: int, rng: Rng) -> Scan:
    """Draw a breast and scan it.

    Args:
        kind: which lesion it holds; `normal` has none.
        width: of the image in pixels; the height is 0.72 to 0.95 of it.
        contrast: lowest and highest level of solid lesions below their surroundings, dB. Cysts lie deeper.
        looks: number of compounded looks; 1 is full speckle.
        rng: source of every choice; the same state gives the same scan.
    """
    grid = _draw_grid(width, rng)
    tissue = _draw_breast(grid, rng)
    distances = [] if kind == "normal" else _draw_lesions(kind, tissue, grid, contrast, rng)
    image = grid.cropped(_scan(tissue, grid, looks, rng))
    masks = tuple(grid.cropped(distance < 0) for distance in distances)
    for mask in masks:
        if rng.random() < CALLIPERS:
            _draw_callipers(image, mask)
    return Scan(np.ascontiguousarray(image), masks)


def envelope(amplitude: Field, reflectors: Field, beam: Field, pulse: float, rng: Rng) -> Field:
    """The echo envelope of scatterers and reflectors seen through a Gaussian point-spread function, one look.

    Args:
        amplitude: (rows, columns), standard deviation of the scatterers' complex amplitude.
        reflectors: (rows, columns), coherent amplitude.
        beam: (rows, 1), lateral standard deviation of the point-spread function in pixels, at least about 0.5.
        pulse: its axial standard deviation in pixels.

    Returns:
        (rows, columns), non-negative. The point-spread function has unit energy, so that homogeneous scatterers
        of amplitude a give an envelope with mean square a squared.
    """
    real, imaginary = rng.standard_normal((2, *amplitude.shape), dtype=np.float32) * np.float32(np.sqrt(0.5))
    echo = amplitude * (real + 1j * imaginary) + reflectors
    echo = gaussian_filter1d(echo, pulse, axis=0) * np.sqrt(2 * np.sqrt(np.pi) * pulse)
    frequency = fft.fftfreq(echo.shape[1]).astype(np.float32)[None, :]
    transfer = np.sqrt(2 * np.sqrt(np.pi) * beam) * np.exp(-2 * (np.pi * beam * frequency) ** 2)
    received: Field = np.abs(fft.ifft(fft.fft(echo, axis=1) * transfer.astype(np.float32), axis=1))
    return received


def _scan(tissue: _Tissue, grid: _Grid, looks: int, rng: Rng) -> NDArray[np.uint8]:
    """Beam, attenuation, noise, compounding, gain and log compression: tissue to grey, 0 to 255."""
    focus = rng.uniform(0.25, 0.6) * grid.depth
    beam = BEAM / grid.spacing * np.sqrt(1 + ((grid.z - focus) / FOCAL_RANGE) ** 2)
    loss = np.cumsum(tissue.attenuation, axis=0) * grid.spacing
    # A beam is wider than a line, so shadows have soft borders.
    loss = gaussian_filter1d(loss, 0.35 / grid.spacing, axis=1)
    passed = _amplitude(-loss)
    amplitude, reflectors = _amplitude(tissue.level) * passed, tissue.reflectors * passed
    power: NDArray[np.floating[Any]] = np.zeros(grid.shape, np.float32)
    for _ in range(looks):
        power += envelope(amplitude, reflectors, beam, PULSE / grid.spacing, rng) ** 2
    noise = rng.uniform(-46, -36) + rng.uniform(0, 8) * (grid.z / grid.depth)
    power = power / looks + _amplitude(noise) ** 2 * rng.chisquare(2 * looks, grid.shape) / (2 * looks)
    dynamic_range, bright = rng.uniform(46, 62), rng.uniform(0.44, 0.6)
    grey = bright + (10 * np.log10(power) + _gain(grid, rng)) / dynamic_range
    image: NDArray[np.uint8] = np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8)
    return image


def _gain(grid: _Grid, rng: Rng) -> Field:
    """Uneven gain, dB: a decrease with depth, a band, and poor contact at one side."""
    depth = grid.z / grid.depth
    fall = -rng.uniform(2, 20) * np.clip((depth - rng.uniform(0.3, 0.6)) / 0.5, 0, None)
    band = rng.uniform(-3, 3) * np.exp(-(((depth - rng.uniform(0.1, 0.9)) / 0.2) ** 2))
    gain = fall + band
    if rng.random() < 0.35:
        side = grid.x if rng.random() < 0.5 else grid.breadth - grid.x
        gain = gain - rng.uniform(6, 25) * _step(rng.uniform(0, 7) - side, rng.uniform(0.5, 1.5))
    return np.broadcast_to(gain, grid.shape).astype(np.float32)


def _draw_grid(width: int, rng: Rng) -> _Grid:
    height, spacing = round(width * rng.uniform(0.72, 0.95)), rng.uniform(36, 48) / width
    margin = round(MARGIN / spacing)
    z = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) * np.float32(spacing)
    x = (np.arange(-margin, width + margin, dtype=np.float32)[None, :] + np.float32(0.5)) * np.float32(spacing)
    return _Grid(z, x, spacing, margin)


def _draw_breast(grid: _Grid, rng: Rng) -> _Tissue:
    """Layers from the skin to the chest wall, all following one gentle slope and bow."""
    across = grid.x / grid.breadth - 0.5
    bend = (rng.normal(0, 3) * across + rng.normal(0, 6) * across**2) * grid.depth / 30
    skin = rng.uniform(0.8, 1.8) + _curve(rng, grid, 0.1, 5)
    fat_end = skin + rng.uniform(1.5, 8.0) + np.abs(_curve(rng, grid, rng.uniform(0.5, 2.5), rng.uniform(3, 7)))
    fat_end = np.maximum(fat_end + 0.5 * bend, skin + 1)
    gland_end = np.maximum(rng.uniform(0.52, 0.8) * grid.depth + _curve(rng, grid, 0.8, 9) + bend, fat_end + 4)
    muscle = gland_end + rng.uniform(0.3, 2.5)
    rib = rng.uniform(0, 4) * np.exp(-(((across - rng.uniform(-0.6, 0.6)) / 0.15) ** 2))
    chest = muscle + rng.uniform(4, 9) + _curve(rng, grid, 0.4, 8) - rib

    flow = np.clip((grid.z - skin) / (gland_end - skin), 0, 1.2) * bend  # how far tissue is shifted down by the bend
    layers = [
        (grid.z < skin, *_skin(grid, rng)),
        (grid.z < fat_end, *_fat(grid, rng)),
        (grid.z < gland_end, *_gland(grid, rng)),
        (grid.z < muscle, *_fat(grid, rng)),
        (grid.z < chest, *_muscle(grid, rng)),
    ]
    level, reflectors = np.full(grid.shape, CHEST_WALL, np.float32), np.zeros(grid.shape, np.float32)
    for inside, layer_level, layer_reflectors in reversed(layers):
        level = np.where(inside, _shifted(layer_level, flow, grid), level)
        reflectors = np.where(inside, _shifted(layer_reflectors, flow, grid), reflectors)
    borders = [(fat_end, rng.uniform(2, 11)), (gland_end, rng.uniform(-4, 8)), (muscle, 5), (chest, rng.uniform(6, 16))]
    for curve, strength in borders:
        reflectors = reflectors + _sheet(grid, curve, strength, rng)
    level = level + 1.5 * _noise(rng, grid, 3, 5)
    attenuation = _ligament_shadows(grid, fat_end, rng) + np.where(grid.z > chest, rng.uniform(0, 1.2), 0)
    return _Tissue(level, reflectors + _skin_echo(grid, skin), attenuation.astype(np.float32))


def _skin(grid: _Grid, rng: Rng) -> tuple[Field, Field]:
    return 2 + _noise(rng, grid, 0.3, 2.0), np.zeros(grid.shape, np.float32)


def _fat(grid: _Grid, rng: Rng) -> tuple[Field, Field]:
    """Dark lobules between thin bright septa."""
    level = FAT + rng.uniform(-2, 2) + 1.5 * _noise(rng, grid, 0.4, 1.2)
    septa = _sheets(rng, grid, rng.uniform(0.7, 1.4), rng.uniform(4, 7), rng.uniform(-2, 5))
    return level, septa + _sheets(rng, grid, 0.6, 2.5, rng.uniform(-12, -2))


def _gland(grid: _Grid, rng: Rng) -> tuple[Field, Field]:
    """Bright tissue with coarse clouds, strands along the layers, dark ducts and fat lobules."""
    level = rng.uniform(1.5, 3.0) * _noise(rng, grid, 0.8, 3.0) + rng.uniform(1.5, 4.5) * _noise(rng, grid, 0.2, 0.9)
    lobules = _noise(rng, grid, rng.uniform(0.5, 1.2), rng.uniform(1.2, 3.0))
    level = level + FAT * _step(lobules - rng.uniform(0.4, 1.8), 0.2) * rng.uniform(0.8, 1.7)
    strands = _sheets(rng, grid, rng.uniform(0.3, 0.5), rng.uniform(2.0, 5.0), rng.uniform(-10, 0))
    return level + _fat_lobules(grid, rng), strands + _sheets(rng, grid, 0.7, 4.0, rng.uniform(-10, 1))


def _fat_lobules(grid: _Grid, rng: Rng) -> Field:
    """Up to three islands of fat, the structures most like lesions: dark, but crossed by strands."""
    level, warp = np.zeros(grid.shape, np.float32), 0.15 * _noise(rng, grid, 0.8, 1.5)
    for _ in range(rng.integers(0, 4)):
        half_width, ratio = rng.uniform(1.5, 5), rng.uniform(0.25, 0.5)
        across = (grid.x - rng.uniform(0, grid.breadth)) / half_width
        down = (grid.z - rng.uniform(0.2, 0.65) * grid.depth) / (half_width * ratio)
        level -= rng.uniform(3.5, 7) * _step(1 - np.hypot(across, down) + warp, 0.1)
    return level


def _muscle(grid: _Grid, rng: Rng) -> tuple[Field, Field]:
    """Dark fibres between long parallel bright sheets."""
    level = MUSCLE + rng.uniform(-2, 2) + 2 * _noise(rng, grid, 0.3, 5.0)
    fibres = _sheets(rng, grid, 0.35, 7.0, rng.uniform(-8, 0))
    return level, fibres + _sheets(rng, grid, 0.7, 9.0, rng.uniform(-8, 4))


def _skin_echo(grid: _Grid, skin: Field) -> Field:
    """The bright lines at the probe's face and under the skin."""
    lines: Field = 5 * np.exp(-(((grid.z - 0.25) / 0.12) ** 2)) + 2.5 * np.exp(-(((grid.z - skin) / 0.1) ** 2))
    return lines


def _sheet(grid: _Grid, curve: Field, level: float, rng: Rng) -> Field:
    """A bright interface along `curve`, weaker where it is inclined to the beam, broken in places."""
    slope = np.gradient(curve, grid.spacing, axis=1)
    strength = _amplitude(level + _curve(rng, grid, 6, 2)) / (1 + slope**2) ** 4
    sheet: Field = strength * np.exp(-(((grid.z - curve) / 0.1) ** 2))
    return sheet


def _ligament_shadows(grid: _Grid, top: Field, rng: Rng) -> Field:
    """Shadows that begin where Cooper's ligaments leave the fat steeply."""
    columns = np.zeros((1, grid.shape[1]), np.float32)
    for _ in range(rng.integers(0, 5)):
        place, breadth = rng.uniform(0, grid.breadth), rng.uniform(0.6, 3.0)
        columns += rng.uniform(0.3, 1.8) * np.exp(-(((grid.x - place) / breadth) ** 2))
    onset: Field = columns * np.exp(-(((grid.z - top - 3) / rng.uniform(2, 4)) ** 2))
    return onset


def _draw_lesions(
    kind: Literal["benign", "malignant"], tissue: _Tissue, grid: _Grid, contrast: tuple[float, float], rng: Rng
) -> list[Field]:
    """Put one lesion, rarely two, into `tissue`; return the signed distance (mm) from each, negative inside."""
    outline = _draw_outline(kind, grid, rng)
    distances = [_distance(outline, grid, rng)]
    if rng.random() < SECOND_LESION:
        other = _distance(_beside(_draw_outline(kind, grid, rng), outline, grid), grid, rng)
        if not ((other < 2) & (distances[0] < 2)).any():
            distances.append(other)
    for distance in distances:
        nature = _draw_benign(contrast, rng) if kind == "benign" else _draw_malignant(contrast, rng)
        _insert(tissue, distance, nature, grid, rng)
    return distances


def _draw_outline(kind: Literal["benign", "malignant"], grid: _Grid, rng: Rng) -> _Outline:
    """A smooth oval that is wider than tall, or an angular and spiculated shape that may be taller than wide."""
    benign = kind == "benign"
    smallest, largest = (0.012, 0.1) if benign else (0.03, 0.2)  # shares of the image
    area = np.exp(rng.uniform(np.log(smallest), np.log(largest))) * grid.depth * grid.breadth
    ratio = rng.uniform(0.45, 0.85) if benign else rng.uniform(0.55, 1.25)  # height / width
    half_width = min(np.sqrt(area / (np.pi * ratio)), 0.4 * grid.breadth)
    half_height = min(half_width * ratio, 0.29 * grid.depth)
    return _Outline(
        x=rng.uniform(0.95 * half_width, grid.breadth - 0.95 * half_width),
        z=max(rng.uniform(0.25, 0.55) * grid.depth, 1.2 * half_height + 2.5),
        half_width=half_width,
        half_height=half_height,
        tilt=rng.normal(0, 0.2 if benign else 0.4),
        radius=_smooth_radius(rng) if benign else _spiculated_radius(rng),
        roughness=half_height * (rng.uniform(0.01, 0.04) if benign else rng.uniform(0.05, 0.2)),
    )


def _beside(outline: _Outline, other: _Outline, grid: _Grid) -> _Outline:
    """`outline`, smaller and in the half of the image that `other` leaves free."""
    x = grid.breadth * (0.2 if other.x > grid.breadth / 2 else 0.8)
    return replace(outline, x=x, half_width=0.5 * outline.half_width, half_height=0.5 * outline.half_height)


def _smooth_radius(rng: Rng) -> NDArray[np.float64]:
    """An ellipse with a few gentle lobulations."""
    return 1 + _harmonics(rng, range(2, 5), rng.uniform(0.01, 0.08))


def _spiculated_radius(rng: Rng) -> NDArray[np.float64]:
    """An angular outline with some spicules, sharp and of uneven length."""
    radius = 1 + _harmonics(rng, range(2, 8), rng.uniform(0.08, 0.2))
    for _ in range(rng.integers(0, 8)):
        distance = np.abs((ANGLES - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi)
        radius += rng.uniform(0.1, 0.45) * np.clip(1 - distance / rng.uniform(0.12, 0.35), 0, None)
    return np.clip(radius, 0.45, 1.7)


def _harmonics(rng: Rng, orders: range, deviation: float) -> NDArray[np.float64]:
    """A random periodic function with amplitudes that decrease with the order, and the given standard deviation."""
    waves = np.zeros_like(ANGLES)
    for order in orders:
        waves += rng.normal() / order * np.cos(order * ANGLES + rng.uniform(0, 2 * np.pi))
    harmonics: NDArray[np.float64] = waves * deviation / waves.std()
    return harmonics


def _distance(outline: _Outline, grid: _Grid, rng: Rng) -> Field:
    """Signed distance in mm from the outline, negative inside; the inside is one piece without holes."""
    across, down = grid.x - outline.x, grid.z - outline.z
    along = across * np.cos(outline.tilt) + down * np.sin(outline.tilt)
    upright = down * np.cos(outline.tilt) - across * np.sin(outline.tilt)
    reach = np.hypot(along / outline.half_width, upright / outline.half_height)
    angle = np.arctan2(upright / outline.half_height, along / outline.half_width)
    depth = (reach - np.interp(angle, ANGLES, outline.radius)) * outline.half_height
    inside = _largest_piece(depth + outline.roughness * _noise(rng, grid, 0.6, 0.9) < 0)
    outside_distance, inside_distance = distance_transform_edt(~inside), distance_transform_edt(inside)
    distance: Field = ((outside_distance - inside_distance) * grid.spacing).astype(np.float32)
    return distance


def _largest_piece(mask: Mask) -> Mask:
    pieces, _ = label(mask)
    largest: Mask = binary_fill_holes(pieces == np.bincount(pieces[mask]).argmax())
    return largest


def _draw_benign(contrast: tuple[float, float], rng: Rng) -> _Nature:
    """A cyst (echo-free, strong enhancement) or a solid lesion (even echoes, mild enhancement)."""
    is_cyst = rng.random() < CYSTS
    return _Nature(
        contrast=rng.uniform(*contrast) + (CYST_DEPTH if is_cyst else 0),
        texture=rng.uniform(0.8, 2.5),
        edge=rng.uniform(0.06, 0.25),
        capsule=rng.uniform(-6, 6),
        halo=0.0,
        attenuation=rng.uniform(-1.4, -0.7) if is_cyst else rng.uniform(-0.8, -0.2),
        edge_shadow=rng.uniform(0, 3),
        calcifications=0,
    )


def _draw_malignant(contrast: tuple[float, float], rng: Rng) -> _Nature:
    """Uneven echoes, a blurred edge, a bright halo, mostly a shadow, in some bright calcifications."""
    return _Nature(
        contrast=rng.uniform(*contrast),
        texture=rng.uniform(1.5, 4.0),
        edge=rng.uniform(0.1, 0.45),
        capsule=-20.0,
        halo=rng.uniform(1, 7),
        attenuation=rng.uniform(-0.1, 1.2),
        edge_shadow=0.0,
        calcifications=int(rng.integers(3, 15)) if rng.random() < 0.35 else 0,
    )


def _insert(tissue: _Tissue, distance: Field, nature: _Nature, grid: _Grid, rng: Rng) -> None:
    """Replace the tissue inside by the lesion, and add capsule, halo, and what attenuates the sound."""
    around = float(np.median(tissue.level[(distance > 0.5) & (distance < 3)]))
    inside = _step(-distance, nature.edge)
    texture = nature.texture * _noise(rng, grid, 0.7, 1.0)
    halo = nature.halo * np.exp(-(((distance - 0.8) / 0.8) ** 2)) * _step(_noise(rng, grid, 1.5, 1.5), 0.5)
    tissue.level = (tissue.level + halo) * (1 - inside) + (around - nature.contrast + texture) * inside
    normal_z, normal_x = np.gradient(distance, grid.spacing)
    capsule = _amplitude(around + nature.capsule) * np.exp(-((distance / 0.12) ** 2)) * np.abs(normal_z) ** 3
    tissue.reflectors = tissue.reflectors * (1 - inside) + capsule + _calcifications(distance, nature, around, rng)
    flanks = np.exp(-((distance / 0.25) ** 2)) * np.abs(normal_x) ** 4
    tissue.attenuation = tissue.attenuation + nature.attenuation * inside + nature.edge_shadow * flanks


def _calcifications(distance: Field, nature: _Nature, around: float, rng: Rng) -> Field:
    """Point reflectors at random places within the lesion."""
    points = np.zeros_like(distance)
    chosen = rng.choice(np.flatnonzero(distance < 0), nature.calcifications)
    points.flat[chosen] = _amplitude(around + rng.uniform(12, 22, nature.calcifications))
    return points


def _draw_callipers(image: NDArray[np.uint8], mask: Mask) -> None:
    """Draw callipers into `image`: crosses at the ends of height and width, joined by dots."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    middle_row, middle_column = int(rows.mean()), int(columns.mean())
    image[top:bottom:4, middle_column] = CALLIPER_GREY
    image[middle_row, left:right:4] = CALLIPER_GREY
    for row, column in [(top, middle_column), (bottom, middle_column), (middle_row, left), (middle_row, right)]:
        image[max(row - 3, 0) : row + 4, column] = CALLIPER_GREY
        image[row, max(column - 3, 0) : column + 4] = CALLIPER_GREY


def _noise(rng: Rng, grid: _Grid, axial: float, lateral: float, tilt: float = 0) -> Field:
    """Gaussian noise of mean 0 and deviation 1, smooth over the given lengths (mm, deviation of the kernel).

    `tilt` is the slope of its grain. Only the frequencies that the kernel passes are drawn.
    """
    rows, columns = (fft.next_fast_len(size, real=True) for size in grid.shape)
    high = np.minimum(0.6 / axial * grid.spacing, 0.5)
    down = fft.fftfreq(rows).astype(np.float32)
    across = fft.rfftfreq(columns).astype(np.float32)
    passed_rows = np.flatnonzero(np.abs(down) <= high)
    passed_columns = np.flatnonzero(across <= 0.6 / lateral * grid.spacing + abs(tilt) * high)
    fz, fx = down[passed_rows, None] / grid.spacing, across[None, passed_columns] / grid.spacing
    kernel = np.exp(-2 * np.pi**2 * ((axial * fz) ** 2 + (lateral * (fx + tilt * fz)) ** 2))
    real, imaginary = rng.standard_normal((2, *kernel.shape), dtype=np.float32)
    spectrum = np.zeros((rows, columns // 2 + 1), np.complex64)
    spectrum[np.ix_(passed_rows, passed_columns)] = kernel * (real + 1j * imaginary)
    spectrum[0, 0] = 0
    smooth = fft.irfft2(spectrum, (rows, columns))
    field: Field = (smooth / smooth.std())[: grid.shape[0], : grid.shape[1]]
    return field


def _curve(rng: Rng, grid: _Grid, deviation: float, length: float) -> Field:
    """A random smooth curve (1, columns) with the given deviation, in whatever unit, and smoothness in mm."""
    white = rng.standard_normal(grid.shape[1]).astype(np.float32)
    smooth = gaussian_filter1d(white, length / grid.spacing, mode="wrap")
    curve: Field = (deviation * smooth / smooth.std())[None, :]
    return curve


def _sheets(rng: Rng, grid: _Grid, axial: float, lateral: float, level: float) -> Field:
    """Amplitude of thin interfaces, `level` dB where they lie level, weak where steep to the beam, broken in places.

    They lie where smooth noise with these lengths (mm) crosses 0.
    """
    noise = _noise(rng, grid, axial, lateral, tilt=rng.normal(0, 0.1))
    down, across = np.gradient(noise, grid.spacing)
    slope = np.hypot(down, across) + np.float32(1e-3)
    strength = _amplitude(level + 7 * _noise(rng, grid, axial, 0.3 * lateral))
    sheets: Field = strength * np.exp(-((noise / slope / np.float32(0.09)) ** 2)) * (down / slope) ** 6
    return sheets


def _shifted(field: Field, flow: Field, grid: _Grid) -> Field:
    """`field` moved down by `flow` mm, pixel by pixel, repeated at its ends."""
    rows = np.arange(grid.shape[0])[:, None] - np.rint(flow / grid.spacing).astype(int)
    moved: Field = np.take_along_axis(field, rows % grid.shape[0], axis=0)
    return moved


def _step(value: Field, softness: float) -> Field:
    """From 0 to 1 where `value` passes 0, over about twice `softness` on either side."""
    step: Field = expit(value / np.float32(softness))
    return step


def _amplitude(decibels: NDArray[np.floating[Any]] | float) -> Field:
    """10^(dB / 20)."""
    amplitude: Field = np.float32(10) ** (np.asarray(decibels, np.float32) / np.float32(20))
    return amplitude
