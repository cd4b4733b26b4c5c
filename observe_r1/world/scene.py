"""A scene: one to nine coloured shapes, each in its own cell of a 3×3 grid."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

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
    """Of its centre from the cell's, right and down, in pixels."""
    radius: int
    """Half its width, in pixels; with the shift it stays inside the cell."""

    @property
    def name(self) -> str:
        """What responses call it: `red-circle`."""
        return f"{self.colour}-{self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows."""

    objects: tuple[Object, ...]
    """In raster order, at most one a cell."""

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
