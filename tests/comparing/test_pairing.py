"""Pairing by hand, name, shape and order; turns; what is refused instead of guessed."""

from __future__ import annotations

import pytest

from converter.comparing.pairing import Asked, Pair, pair_inputs, pair_outputs, parse_turns
from converter.comparing.turns import readings
from converter.errors import UsageError
from converter.model import Dim, TensorSpec


def spec(name: str, *shape: Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype)


def names(pairs: tuple[Pair, ...]) -> list[tuple[str, str, str]]:
    return [(pair.a.name, pair.b.name, pair.how) for pair in pairs]


FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 3, 8, 8), (2, 3, 8, 8), [()]),
        ((2, 5, 8, 3), (2, 3, 5, 8), [FIRST]),  # height 5, width 8, channels 3
        ((2, 3, 5, 8), (2, 5, 8, 3), [LAST]),
        ((2, 3, 5, 8), (2, 3, 8, 5), []),  # height and width exchanged are no turn
        ((2, 8, 8, 8), (2, 8, 8, 8), [(), FIRST, LAST]),
        (("batch", 3, "h", "w"), ("batch", "h", "w", 3), [LAST]),  # the size known to be equal decides
        (("batch", 3, "h", "w"), ("n", 3, "h", "w"), [()]),
        (("batch", "h", "w", "c"), (1, "x", "y", "z"), [(), FIRST, LAST]),
        ((1, 224, 224, 3), (1, 192, 192, 3), []),
        ((4, 10), (4, 10, 1), []),
        ((4, 12, 7), (4, 7, 12), [(0, 2, 1)]),
        ((2, 3, 4, 5, 6), (2, 6, 3, 4, 5), [(0, 4, 1, 2, 3)]),
        (("...",), (1, 2), [()]),
    ],
)
def test_readings(a: tuple[Dim, ...], b: tuple[Dim, ...], expected: list[tuple[int, ...]]) -> None:
    assert readings(spec("a", *a), spec("b", *b)) == expected


@pytest.mark.parametrize(
    ("a", "b", "fits"),
    [
        ("float32", "float16", True),
        ("bfloat16", "float64", True),
        ("int64", "int32", True),
        ("float32", "int8", False),
        ("bool", "int32", False),
        ("string", "string", True),
        ("sequence(float32)", "float32", False),
        ("unknown", "int64", True),
    ],
)
def test_dtypes_that_go_together(a: str, b: str, fits: bool) -> None:
    assert bool(readings(spec("a", 2, dtype=a), spec("b", 2, dtype=b))) is fits


def test_names_come_first_whatever_the_order() -> None:
    a = [spec("x", 1, 4), spec("y", 1, 4)]
    b = [spec("y", 1, 4), spec("x", 1, 4)]
    assert names(pair_inputs(a, b, Asked())) == [("x", "x", "by name"), ("y", "y", "by name")]


def test_names_as_tensorflow_spells_them() -> None:
    a = [spec("Encoder/pool:0", 1, 4), spec("y", 1, 4)]
    b = [spec("y", 1, 4), spec("encoder_pool", 1, 4)]
    assert names(pair_inputs(a, b, Asked()))[0] == (
        "Encoder/pool:0",
        "encoder_pool",
        "by name, spelt otherwise",
    )


def test_the_only_way_that_shapes_fit() -> None:
    # p takes 4 or 5 by its free size; q takes 4 alone: so p is the one of 5.
    a = [spec("p", 1, "n"), spec("q", 1, 4), spec("r", 1, 7)]
    b = [spec("i", 1, 4), spec("j", 1, 7), spec("k", 1, 5)]
    a[0] = TensorSpec("p", (1, "n"), "float32")
    with pytest.raises(UsageError, match="more than one way"):
        # p fits i, j and k, q only i, r only j: p is k, were it not for the order, which does not fit
        pair_inputs([a[0], spec("q", 1, "m"), a[2]], b, Asked())
    assert names(pair_inputs(a, b, Asked())) == [
        ("p", "k", "by shape and dtype"),
        ("q", "i", "by shape and dtype"),
        ("r", "j", "by shape and dtype"),
    ]


def test_order_where_all_are_alike_as_they_stand() -> None:
    a = [spec("p", 1, 4), spec("q", 1, 4)]
    b = [spec("i", 1, 4), spec("j", 1, 4)]
    assert names(pair_inputs(a, b, Asked())) == [("p", "i", "by order"), ("q", "j", "by order")]
    assert names(pair_inputs(a, b, Asked(inputs={"p": "j"}))) == [
        ("p", "j", "by hand"),
        ("q", "i", "the only ones"),
    ]


def test_order_is_not_taken_where_tensors_would_have_to_be_turned() -> None:
    a = [spec("p", 1, 3, 8, 9), spec("q", 1, 3, 8, 9)]
    b = [spec("i", 1, 8, 9, 3), spec("j", 1, 8, 9, 3)]
    with pytest.raises(UsageError) as refused:
        pair_inputs(a, b, Asked())
    assert "A's inputs: p: float32[1, 3, 8, 9], q" in refused.value.message
    assert "B's inputs: i: float32[1, 8, 9, 3], j" in refused.value.message
    assert "--input" in str(refused.value.hint)


def test_inputs_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"224, 224.*192, 192"):
        pair_inputs([spec("x", "b", 224, 224, 3)], [spec("x", "b", 192, 192, 3)], Asked())
    with pytest.raises(UsageError, match="do not fit one another"):
        pair_inputs([spec("x", 1, 4), spec("y", 1, 9)], [spec("x", 1, 4)], Asked())
    with pytest.raises(UsageError, match="do not fit one another"):
        pair_inputs([spec("x", 1, 4)], [], Asked())


def test_hands_that_name_nothing_or_twice() -> None:
    a, b = [spec("p", 1, 4), spec("q", 1, 4)], [spec("i", 1, 4), spec("j", 1, 4)]
    with pytest.raises(UsageError, match="A has no input 'z'"):
        pair_inputs(a, b, Asked(inputs={"z": "i"}))
    with pytest.raises(UsageError, match="B has no input 'z'"):
        pair_inputs(a, b, Asked(inputs={"p": "z"}))
    with pytest.raises(UsageError, match="paired twice"):
        pair_inputs(a, b, Asked(inputs={"p": "i", "q": "i"}))


def test_leftover_outputs_and_picked_ones() -> None:
    a, b = [spec("p", 1, 4), spec("q", 1, 9)], [spec("p", 1, 4)]
    found = pair_outputs(a, b, Asked(), ())
    assert names(found.pairs) == [("p", "p", "by name")]
    assert [left.name for left in found.left_a] == ["q"]
    picked = pair_outputs(a, b, Asked(outputs={"p": "p"}), ())
    assert names(picked.pairs) == [("p", "p", "by hand")]
    assert not picked.left_a
    with pytest.raises(UsageError, match="more than one way to pair the outputs"):
        pair_outputs([spec("p", 1, 4)], [spec("i", 1, 4), spec("j", 1, 4)], Asked(), ())
    with pytest.raises(UsageError, match="no output of B fits"):
        pair_outputs([spec("p", 1, 4)], [spec("i", 1, 5), spec("j", 1, 6)], Asked(), ())


def test_a_cube_is_not_turned_in_silence() -> None:
    cube = [spec("y", 1, 8, 8, 8)]
    (pair,) = pair_inputs(cube, cube, Asked())
    assert (pair.turn, pair.unsure) == ((), True)
    turned = [Pair(spec("x", 1, 3, 8, 9), spec("x", 1, 8, 9, 3), "by name", LAST)]
    with pytest.raises(UsageError, match="do not tell"):
        pair_outputs(cube, cube, Asked(), turned)
    (pair,) = pair_outputs(cube, cube, Asked(turns={"y": None}), turned).pairs
    assert (pair.turn, pair.unsure) == (LAST, False)  # the way that the input is turned
    (pair,) = pair_outputs(cube, cube, Asked(turns={"y": ()}), turned).pairs
    assert pair.turn == ()
    with pytest.raises(UsageError, match="y=0,3,1,2 or y=0,2,3,1"):
        pair_inputs(cube, cube, Asked(turns={"y": None}))
    (pair,) = pair_inputs(cube, cube, Asked(turns={"y": FIRST}))
    assert pair.turn == FIRST


def test_a_turn_that_does_not_fit() -> None:
    x = [spec("x", 1, 3, 8, 9)]
    with pytest.raises(UsageError, match="does not fit"):
        pair_inputs(x, x, Asked(turns={"x": None}))
    with pytest.raises(UsageError, match="does not fit"):
        pair_inputs(x, x, Asked(turns={"x": FIRST}))


def test_what_turn_says() -> None:
    assert parse_turns(["x", "y=no", "a=b=0,2,1"]) == {"x": None, "y": (), "a=b": (0, 2, 1)}
    for text in ("x=", "x=yes", "x=0,0", "=no", "x=1,2,3"):
        with pytest.raises(UsageError, match="expected NAME"):
            parse_turns([text])
