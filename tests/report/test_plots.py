import pytest
from matplotlib.text import Text

from tradewind.report.plots import picture, write_plots

MEASURED = [
    ("teacher-fp32", 0.835, 540.2, 57.0),
    ("teacher-int8", 0.826, 153.8, 107.0),
    ("teacher-int4", 0.667, 100.8, 131.0),
    ("student-fp32", 0.719, 216.7, 113.0),
    ("student-int8", 0.713, 63.0, 199.0),
    ("student-int4", 0.599, 38.8, 201.0),
]
"""A front that rises with size and falls with speed, as the measured one does."""
POINTS = [
    {"variant": name, "answer_f1": f1, "low": f1 - 0.05, "high": f1 + 0.05, "megabytes": size, "decode_tokens_per_s": v}
    for name, f1, size, v in MEASURED
]


@pytest.mark.parametrize(("cost", "more"), [("megabytes", False), ("decode_tokens_per_s", True)])
def test_labels_are_clear_of_the_front_and_of_each_other(cost, more):
    figure = picture(POINTS, {}, cost, more, "cost", "title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    line = next(one for one in axes.lines if one.get_linewidth() == 6)
    path = line.get_transform().transform_path(line.get_path())
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert sorted(boxes) == sorted(row["variant"] for row in POINTS)
    assert not [name for name, box in boxes.items() if path.intersects_bbox(box, filled=False)]
    assert not [(a, b) for a in boxes for b in boxes if a < b and boxes[a].overlaps(boxes[b])]


def test_the_pictures_have_titles_of_their_own(tmp_path, monkeypatch):
    titles = []
    draw = picture
    monkeypatch.setattr("tradewind.report.plots.picture", lambda *given: titles.append(given[-1]) or draw(*given))
    rows = {"base-fp32": {"answer_f1": 0.1, "answer_f1_ci": (0.0, 0.2), "bytes": 5e8, "decode_tokens_per_s": 50.0}}
    assert [path.name for path in write_plots(tmp_path, rows, {}, "host")] == ["quality_speed.png", "quality_bytes.png"]
    assert len({title.splitlines()[0] for title in titles}) == 2
