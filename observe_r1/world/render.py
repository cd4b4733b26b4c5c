"""A scene as a picture of 84×84 pixels."""

from __future__ import annotations

from PIL import Image, ImageDraw

from observe_r1.world.scene import GRID, Object, Scene

CELL = 28
"""Pixels along a cell's side: what Qwen2.5-VL merges into one visual token (2 × 2 patches of 14)."""
BACKGROUND = (123, 117, 104)
"""The image processor's mean colour, so that an empty cell is zero once normalised."""
RGB = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 225), "yellow": (240, 215, 50)}
"""The paint of each of `scene.COLOURS`."""


def render(scene: Scene) -> Image.Image:
    """Draw the scene. Returns an RGB image of 84×84 pixels, edges not smoothed."""
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
