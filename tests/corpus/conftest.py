"""A small package written to a folder, with what makes extraction hard; and a corpus made of synthetic records."""

from pathlib import Path

import pytest

from tradewind.corpus.extract import PackageChoice, extract
from tradewind.corpus.records import Record

INIT = '''"""A package of shapes.

More about shapes.
"""

from shapes._core import Shape, area
from shapes._core import area as surface
from shapes._huge import huge
from os.path import join

__all__ = ["Shape", "area", "surface", "huge", "join"]
'''
CORE = '''"""Private home of public things."""

from shapes import other


class Shape:
    """A shape in the plane.

    Parameters
    ----------
    sides : int, default 3
        How many sides the shape has.
    colour : {'red', 'blue'}, optional
        The colour to :func:`paint <shapes.paint>` it in, see ``Shape.paint``.
    """

    def __init__(self, sides=3, colour="red"):
        self.sides = sides

    @property
    def corners(self):
        """The number of corners, as many as sides."""
        return self.sides

    @classmethod
    def square(cls, size: float = 1.0):
        """Make a square.

        Args:
            size: Length of one side.

        Returns:
            The square that was made.

        Raises:
            ValueError: If the size is negative.
        """

    def _hidden(self):
        """Not public."""


def area(shape, *, unit="m2", digits=2):
    """Compute the area of a shape.

    The area is computed from its outline.

    :param shape: The shape to measure.
    :type shape: Shape
    :param unit: Unit of the result.
    :returns: The area in the given unit.
    :raises TypeError: If the argument is no shape.

    >>> import shapes
    >>> shapes.area(shapes.Shape(4))
    1.0
    """
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A site-packages folder with `shapes` 1.2 and a single-file package `single`."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "shapes"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(INIT)
    (package / "_core.py").write_text(CORE)
    (package / "other.py").write_text(
        '"""Another module."""\nimport shapes._core\n\n\ndef flip(x):\n    """Flip it over."""\n'
    )
    (package / "_huge.py").write_text(
        f'def huge(x=1):\n    """Hold a huge docstring.\n\n{"    word " * 200_000}\n    """\n'
    )
    (package / "broken.py").write_text("def broken(:\n")
    (package / "latin.py").write_bytes('"""Caf\xe9."""\ndef cafe():\n    """Brew."""\n'.encode("latin-1"))
    (package / "loop_a.py").write_text("from shapes.loop_b import thing\n__all__ = ['thing']\n")
    (package / "loop_b.py").write_text("from shapes.loop_a import thing\n__all__ = ['thing']\n")
    (package / "tests" / "test_it.py").write_text('def secret():\n    """A test."""\n')
    metadata = folder / "shapes-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes\nVersion: 1.2\n")
    (folder / "single.py").write_text('"""One file."""\n\n\ndef alone(x: int = 2) -> str:\n    """Stand alone."""\n')
    return folder


@pytest.fixture(scope="session")
def shapes(site) -> dict[str, Record]:
    records = extract([PackageChoice("shapes", str(site))], processes=1)
    return {record.id: record for record in records}
