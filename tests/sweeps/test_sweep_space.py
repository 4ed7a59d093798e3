"""Search spaces: Hydra's grammar in, grids out."""

import itertools

import pytest

from variata.errors import ConfigError
from variata.sweeps.space import Interval, Range, Values, read


def test_a_grid_has_every_combination_once_and_the_last_axis_fastest():
    space = read({"beta.value": "0.5,1", "seed": "range(1,4)"}, ["model=a,b", "data=digits"])
    expected = [
        ["data=digits", f"beta.value={b}", f"seed={s}", f"model={m}"]
        for b, s, m in itertools.product(("0.5", "1"), (1, 2, 3), ("a", "b"))
    ]
    assert list(space.grid()) == expected


def test_the_command_line_takes_the_place_of_a_key_of_the_file():
    space = read({"seed": "1,2", "beta.value": "1,2"}, ["seed=7", "beta.value=3,4"])
    assert list(space.grid()) == [["seed=7", "beta.value=3"], ["seed=7", "beta.value=4"]]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("0.5,1", Values(("0.5", "1"))),
        ([1, 0.5, True, None, "word"], Values(("1", "0.5", "True", "null", "word"))),
        ("range(8,65,8)", Range(8, 64, 8, tuple(map(str, range(8, 65, 8))))),
        ("tag(log,interval(1e-4,1e-2))", Interval(1e-4, 1e-2, log=True)),
        ("int(interval(1,10))", Interval(1, 10, log=False)),
    ],
)
def test_an_axis_is_what_the_grammar_says(text, axis):
    assert read({"x": text}, []).axes["x"] == axis


def test_values_are_plain_again():
    assert read({"x": [1, 0.5, True, None, "word"]}, []).axes["x"].plain == [1, 0.5, True, None, "word"]
    assert read({"x": "range(0,1,0.25)"}, []).axes["x"].plain == [0, 0.25, 0.5, 0.75]


def test_one_value_is_no_axis():
    assert read({"x": 3, "y": "choice(4)"}, []).axes.keys() == {"y"}


def test_a_grid_over_an_interval_is_refused_with_a_remedy():
    with pytest.raises(ConfigError, match=r"optimizer.lr is an interval.*sweep=optuna"):
        list(read({"optimizer.lr": "interval(0.1,1)"}, []).grid())


@pytest.mark.parametrize("text", ["interval(1,0)", "range(3,3)"])
def test_an_empty_axis_is_refused(text):
    with pytest.raises(ConfigError, match=r"x: .* holds no"):
        read({"x": text}, [])


def test_corners_have_every_word_and_one_number_of_each_axis():
    params = {"model": "a,b,c", "seed": "range(1,10001)", "x": "1,none,2.5", "y": "interval(0.5,2)"}
    corners = [dict(word.split("=") for word in point) for point in read(params, ["data=digits"]).corners()]
    assert len(corners) == 3 and all(corner["data"] == "digits" and corner["y"] == "0.5" for corner in corners)
    assert {corner["model"] for corner in corners} == {"a", "b", "c"}
    assert {corner["x"] for corner in corners} == {"1", "none"} and {corner["seed"] for corner in corners} == {"1"}


def test_a_value_given_twice_is_one():
    assert read({"x": "a,b,a"}, []).axes["x"] == Values(("a", "b"))
