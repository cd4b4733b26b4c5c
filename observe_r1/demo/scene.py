"""A scene: coloured shapes in the cells of a grid, drawn as an image of 84×84 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
GRID = 3
"""Cells along each side."""
LEVELS = tuple(range(1, GRID * GRID + 1))
"""Levels of difficulty: the number of objects in the scene."""

_MAX_SHIFT = 3
_RADII = (8, 10)


@dataclass(frozen=True, slots=True)
class Object:
    """One coloured shape."""

    colour: str
    shape: str
    cell: int
    """0 to 8, in raster order."""
    shift: tuple[int, int]
    """Of its centre from the cell's: right and down, in pixels."""
    radius: int
    """Half its width, in pixels; small enough that the shape stays inside its cell."""

    @property
    def name(self) -> str:
        """What responses call it: `red-circle`."""
        return f"{self.colour}-{self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What one image shows."""

    objects: tuple[Object, ...]
    """In raster order, at most one per cell."""

    def cell_names(self) -> list[str]:
        """Return what is in each of the nine cells, in raster order: an object's name, or `empty`."""
        names = {thing.cell: thing.name for thing in self.objects}
        return [names.get(cell, "empty") for cell in range(GRID * GRID)]


def draw_scene(rng: Random, level: int) -> Scene:
    """Draw a scene of `level` objects: cells, colours, shapes, positions and sizes are all uniform."""
    return Scene(tuple(_draw_object(rng, cell) for cell in sorted(rng.sample(range(GRID * GRID), level))))


def _draw_object(rng: Random, cell: int) -> Object:
    shift = (rng.randint(-_MAX_SHIFT, _MAX_SHIFT), rng.randint(-_MAX_SHIFT, _MAX_SHIFT))
    return Object(rng.choice(COLOURS), rng.choice(SHAPES), cell, shift, rng.randint(*_RADII))


CELL = 28
"""Pixels along a cell's side: what Qwen2.5-VL merges into one visual token (2 × 2 patches of 14)."""
BACKGROUND = (123, 117, 104)
"""The image processor's mean colour, so that an empty cell is zero once normalised."""
RGB = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 225), "yellow": (240, 215, 50)}
"""What each of `COLOURS` is painted with."""


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image of 84×84 pixels, without smoothing edges."""
    image = Image.new("RGB", (GRID * CELL, GRID * CELL), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for thing in scene.objects:
        _draw(draw, thing)
    return image


def _draw(draw: ImageDraw.ImageDraw, thing: Object) -> None:
    row, column = divmod(thing.cell, GRID)
    x = column * CELL + CELL // 2 + thing.shift[0]
    y = row * CELL + CELL // 2 + thing.shift[1]
    left, top, right, bottom = x - thing.radius, y - thing.radius, x + thing.radius, y + thing.radius
    paint = RGB[thing.colour]
    if thing.shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=paint)
    elif thing.shape == "square":
        draw.rectangle((left, top, right, bottom), fill=paint)
    else:
        draw.polygon(((left, bottom), (x, top), (right, bottom)), fill=paint)
