"""Labels of points in a plot, moved to where they cover least: each is placed once, in the order given."""

from collections.abc import Sequence
from typing import cast

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

Place = tuple[float, float]
"""From the point, in points; a negative x: to the left of it."""
STEPS = 24
"""So many places further down the list are as bad as a leader that crosses something."""


def place_labels(
    labels: Sequence[Annotation], line: Line2D, places: Sequence[Place], taken: Sequence[Bbox] = ()
) -> None:
    """Move each label to that of `places` where it covers least of the line, of `taken` (boxes in pixels) and of the labels
    and leaders before it, inside the frame; the earlier place where several are as good."""
    boxes, paths = list(taken), [line.get_transform().transform_path(line.get_path())]
    half = line.get_linewidth() / 2 * cast(Axes, line.axes).figure.dpi / 72
    for label in labels:
        costs = [_cost(label, place, boxes, paths, half) + number / STEPS for number, place in enumerate(places)]
        box = _at(label, best := places[costs.index(min(costs))])
        boxes.append(box)
        if label.arrow_patch:
            paths.append(_leader(label, best, box))


def _cost(label: Annotation, place: Place, boxes: Sequence[Bbox], paths: Sequence[Path], half: float) -> int:
    """3 for each thing that the text covers, 1 for each that its leader crosses, if it has one."""
    axes, box = cast(Axes, label.axes), _at(label, place)
    covered = sum(box.overlaps(other) for other in boxes)
    covered += sum(path.intersects_bbox(box.padded(half), filled=False) for path in paths)
    outside = not all(axes.bbox.contains(*corner) for corner in box.corners())
    crossed = 0
    if label.arrow_patch:
        leader, point = _leader(label, place, box), axes.transData.transform(label.xy)
        crossed = sum(leader.intersects_bbox(other) for other in boxes if not other.contains(*point))
        crossed += sum(leader.intersects_path(other, filled=False) for other in paths[1:])
    return int(3 * (covered + 3 * outside) + crossed)


def _at(label: Annotation, place: Place) -> Bbox:
    """Put the label there; the box of its text, without its leader."""
    label.set(position=place, ha="left" if place[0] > 0 else "right")
    return Text.get_window_extent(label)


def _leader(label: Annotation, place: Place, box: Bbox) -> Path:
    x, y = cast(Axes, label.axes).transData.transform(label.xy)
    return Path([(x, y), (box.x0 if place[0] > 0 else box.x1, (box.y0 + box.y1) / 2)])
