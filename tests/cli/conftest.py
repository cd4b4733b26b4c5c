"""What tests of several files in this folder use."""

import pytest


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and returns its path."""

    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
