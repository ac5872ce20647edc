"""Colours that everybody can tell apart and words that everybody can read, in plots, drawings and tables."""

import importlib.util
import inspect
import sys
from collections import Counter

import matplotlib.pyplot as plt
import matplotlib.style
import pytest

from rlhf import pictures, profiles
from tools import colours
from tools.notebooks import Course

COURSE = Course(profiles.CHECKOUT)
FIGS = profiles.CHECKOUT / "figs"
DRAWINGS = sorted(path.stem for path in FIGS.glob("[0-9][0-9]_*.py"))
PAGES = {"light": ("#ffffff", "#212121"), "dark": ("#111111", "#dfdfdf")}  # JupyterLab: page and words
NOT_HERE = ("01_families", "07_result")  # drawn from models and from a run, which takes its time


def script(name):
    """A script of figs/ as a module, without running it as a command."""
    sys.path.insert(0, str(FIGS))
    try:
        spec = importlib.util.spec_from_file_location(f"figs_{name}", FIGS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FIGS))


@pytest.mark.parametrize(
    ("one", "other", "distance"),  # Sharma, Wu and Dalal (2005), table 1: the cases where formulas go wrong
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_distances_are_the_published_ones(one, other, distance):
    assert colours.ciede2000(one, other) == pytest.approx(distance, abs=1e-4)
    assert colours.ciede2000(other, one) == pytest.approx(distance, abs=1e-4)


def test_contrast_is_that_of_wcag():
    assert colours.contrast("white", "black") == pytest.approx(21)
    assert colours.contrast("#767676", "white") == pytest.approx(4.54, abs=0.01)  # the well-known limit
    assert colours.over("black", "white", 0.5) == pytest.approx((0.5, 0.5, 0.5))


def test_planted_colours_and_words_are_found():
    assert any("deuteranopia" in line for line in colours.too_close(["#c03030", "#6b7300"]))  # red, olive
    assert any("tritanopia" in line for line in colours.too_close(["#00b0f0", "#00c8a0"]))
    assert len(colours.too_close(["#0072B2", "#0072B2"])) == len(colours.VISIONS)
    figure, axes = plt.subplots()
    axes.set_facecolor("#777777")
    axes.text(0.5, 0.5, "on grey", color="black", ha="center")
    axes.text(0.5, 0.8, "faint", color="#666666", ha="center")
    axes.text(0.5, 0.2, "see-through", color="white", alpha=0.3, ha="center")
    found = colours.faint_words(figure)
    plt.close(figure)
    assert [line.split("'")[1] for line in found] == ["faint", "see-through"]


def test_the_colours_of_the_plots():
    with matplotlib.style.context(str(pictures.STYLE)):
        cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
        assert len(cycle) == 8 and colours.too_close([f"#{colour.lstrip('#')}" for colour in cycle]) == []
        assert colours.contrast(plt.rcParams["text.color"], plt.rcParams["figure.facecolor"]) > 7


@pytest.mark.parametrize("name", COURSE.names())
def test_colours_that_meet_in_a_lessons_plot(name):
    source = COURSE.source(name).read_text(encoding="utf-8")
    for line, named in [*colours.meeting(source), *colours.maps(source)]:
        assert colours.too_close(named) == [], f"lessons/{name}.py, line {line}"


def test_a_planted_meeting_is_found_and_a_short_cycle_would_be():
    source = '# %%\nx = 1\n\n# %%\nplot(a, "C0-")\nplot(b, color="#0072B2")\nplot(c, "C3:")\n'
    ((line, named),) = colours.meeting(source)
    assert line == 4 and Counter(named) == {"#0072B2": 2, "#CC79A7": 1} and colours.too_close(named)
    # of a list of seven colours, C7 would be C0 once more
    ((_, named),) = colours.meeting('# %%\nplot(a, "C0")\nplot(b, "C7")\n')
    assert colours.too_close(named) == []


def test_a_planted_colour_map_is_found():
    source = (
        'x = 1\nimshow(x, cmap="RdBu")\nbars.plot(colormap="tab20", cmap=own)\nimshow(x, cmap="RdYlGn")\n'
    )
    found = {line: colours.too_close(named) for line, named in colours.maps(source)}
    assert list(found) == [2, 3, 4] and found[2] == [] and found[3] and found[4]


@pytest.mark.parametrize("name", [name for name in DRAWINGS if name not in NOT_HERE])
def test_words_in_a_drawing_can_be_read(name):
    figure = script(name).draw()
    try:
        assert colours.faint_words(figure) == []
    finally:
        plt.close(figure)


def test_roles_in_drawings_differ_in_more_than_colour():
    drawing = script("drawing") if (FIGS / "drawing.py").is_file() else None
    assert colours.too_close(drawing.EDGES.values()) == []
    assert "--" in inspect.getsource(drawing.rectangle)  # frozen is dashed as well as grey


@pytest.mark.parametrize("page", PAGES)
def test_words_on_coloured_tokens_can_be_read(page):
    ground, ink = PAGES[page]
    for rgb in (pictures.POSITIVE, pictures.NEGATIVE):
        strongest = colours.over([part / 255 for part in rgb], ground, 0.55)
        assert colours.contrast(ink, strongest) >= colours.READABLE
    assert f".off {{opacity: {pictures.FADED:.2f}".replace("0.", ".") in pictures.GRID_CSS
    faded = colours.over(ink, ground, pictures.FADED)
    assert colours.contrast(faded, ground) >= colours.READABLE


def test_words_in_the_packages_own_pictures_can_be_read():
    tokens, parts = ["This", "movie", "was", "good"], ["query", "query", "response", "response"]
    rows = {"reward": [0.0, 0.0, -0.9, 1.0], "ratio": [1.0, 1.0, 0.2, 1.9]}
    grid = pictures.token_grid_picture(tokens, rows, parts=parts, title="a title")
    curves = pictures.curves(
        [{"a": i, "b": -i} for i in range(5)], ["a", "b"], title="curves", lines={"a": 2}
    )
    assert colours.faint_words(grid) == [] and colours.faint_words(curves) == []
