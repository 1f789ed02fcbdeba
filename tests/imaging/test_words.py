from __future__ import annotations

import numpy as np
import pytest

from converter.errors import UsageError
from converter.imaging import Preprocess
from converter.model import TensorSpec

NCHW = TensorSpec("image", ("b", 3, 224, 224), "float32")
NHWC = TensorSpec("image", ("b", 224, 224, 3), "float32")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("none", "none"),
        ("scale", "scale(1/255)"),
        ("imagenet", "scale(1/255),normalize(0.485|0.456|0.406,0.229|0.224|0.225)"),
        (" resize( 224 ) , scale( 1/127.5 , -1 ) ", "resize(224x224,bilinear),scale(1/127.5,-1)"),
        ("resize(256x320,nearest)", "resize(256x320,nearest)"),
        ("resize(short=256,noantialias,bicubic)", "resize(short=256,bicubic,noantialias)"),
        ("resize(8,nearest,noantialias)", "resize(8x8,nearest)"),
        ("crop(224x160),bgr", "crop(224x160),bgr"),
        ("scale(.5,1e-3)", "scale(0.5,0.001)"),
        ("normalize(0.5,0.25|0.5|1/3)", "normalize(0.5,0.25|0.5|0.3333333333333333)"),
        ("keras:VGG16", "bgr,normalize(103.939|116.779|123.68,1)"),
        ("keras:EfficientNet_B0", "none"),
        (
            "torchvision:resnet50",
            "resize(short=232,bilinear),crop(224x224),scale(1/255),"
            "normalize(0.485|0.456|0.406,0.229|0.224|0.225)",
        ),
    ],
)
def test_words_in_full_and_read_back(text: str, full: str) -> None:
    read = Preprocess.parse(text)
    assert str(read) == full
    assert Preprocess.parse(full).steps == read.steps
    assert read.changes == (full != "none")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "expected a word at character 1, got the end", "words are"),
        ("scale,", "expected a word at character 7, got the end", "words are"),
        ("scale bgr", "expected a comma at character 7, got 'bgr'", "words are"),
        ("scale,reisze(224)", "reisze(224) at character 7: no such word", "resize"),
        ("imagnet", "no such word", "the nearest are imagenet"),
        ("keras:vgg61", "no such word", "keras:vgg16"),
        ("vgg16", "no such word", "keras:vgg16"),
        ("torchvision:resnet55", "no such word", "torchvision:resnet5"),
        ("timm:resnet50", "no such word", "resnet50"),
        ("none:", "no such word", "none"),
        ("resize", "'' is no size", "resize(224)"),
        ("resize()", "'' is no size", "resize(224)"),
        ("resize(0)", "'0' is no size", "resize(224)"),
        ("resize(-3)", "'-3' is no size", "resize(224)"),
        ("resize(99999)", "'99999' is no size of 1 to 16384", "resize(224)"),
        ("resize(224x)", "is no size", "resize(224)"),
        ("resize(٢٢٤)", "is no size", "resize(224)"),
        ("resize(short=2x3)", "is no size", "short=256"),
        ("resize(224,lanczos)", "no such choice 'lanczos'", "bicubic"),
        ("resize(224,bicubic,bilinear)", "said twice", "bicubic"),
        ("resize(224", "expected a comma at character 7", "words are"),
        ("resize(224))", "expected a comma at character 12", "words are"),
        ("crop", "expected one size", "crop(224)"),
        ("crop(2,3)", "expected one size", "crop(224)"),
        ("scale()", "expected a factor", "scale(1/255)"),
        ("scale(0)", "expected a factor that is not 0", "scale(1/255)"),
        ("scale(1/0)", "expected a factor", "scale(1/255)"),
        ("scale(nan)", "expected a factor", "scale(1/255)"),
        ("scale(1e999)", "expected a factor", "scale(1/255)"),
        ("scale(1e30)", "expected a factor", "scale(1/255)"),
        ("normalize(0,1e-50)", "expected a mean", "normalize(imagenet)"),
        ("scale(1,2,3)", "expected a factor", "scale(1/255)"),
        ("normalize", "expected a mean", "normalize(imagenet)"),
        ("normalize(0.5)", "expected a mean", "normalize(imagenet)"),
        ("normalize(1,0)", "no deviation being 0", "normalize"),
        ("normalize(1|2,1)", "expected one or three", "normalize"),
        ("bgr(1)", "takes nothing", "bgr"),
        ("imagenet(1)", "takes nothing", "words are"),
        ("none,__import__('os')", "expected a word at character 6", "words are"),
    ],
)
def test_what_is_no_preprocessing(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess.parse(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_text_of_any_length_is_refused_in_time() -> None:
    with pytest.raises(UsageError, match="at most 2000"):
        Preprocess.parse("scale," * 100_000)
    with pytest.raises(UsageError):
        Preprocess.parse("scale(" + "1" * 1900)


def test_texts_of_any_kind_are_words_or_refused() -> None:
    rng = np.random.default_rng(0)
    parts = [
        *"(),|/x=-+. 0e",
        "5",
        "224",
        "1e9",
        "resize",
        "crop",
        "scale",
        "normalize",
        "bgr",
        "short=",
        "keras:",
        "é",
    ]
    read = 0
    for _ in range(4000):
        text = "".join(rng.choice(parts, rng.integers(0, 9)))
        try:
            found = Preprocess.parse(text)
        except UsageError as error:
            assert error.message
        else:
            read += 1
            assert Preprocess.parse(str(found)).steps == found.steps
            got = found.run(np.full((1, 2, 2, 3), 7, np.uint8), 3) if not found.sizing else np.zeros(1)
            assert np.isfinite(got).all()
    assert read > 10


def test_the_image_that_replaces_the_input() -> None:
    sized, plain = Preprocess.parse("resize(224),scale"), Preprocess.parse("imagenet")
    expected = TensorSpec("image", ("b", "height", "width", 3), "uint8", (0.0, 255.0))
    assert sized.image(NCHW) == sized.image(NHWC) == expected
    assert plain.image(NCHW).shape == plain.image(NHWC).shape == ("b", 224, 224, 3)
    assert plain.image(TensorSpec("x", (2, 3, "h", "w"), "float16")).shape == (2, "h", "w", 3)
    assert Preprocess.parse("scale").image(TensorSpec("x", ("b", 1, 28, 28), "float32")).shape == (
        "b",
        28,
        28,
        1,
    )


def test_where_the_channels_are_when_both_ends_could_be() -> None:
    spec = TensorSpec("x", ("b", 3, 8, 3), "float32")
    plain = Preprocess.parse("none")
    assert plain.image(spec).shape == ("b", 3, 8, 3)
    assert plain.image(spec, channels_last=False).shape == ("b", 8, 3, 3)
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 3, 3), np.uint8)
    first = plain.apply(images, spec, channels_last=False)
    np.testing.assert_array_equal(first, np.moveaxis(images, 3, 1))


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        ("resize(224)", ("b", 160, 160, 3), r"ends at images of 224×224 .*takes 160×160"),
        ("resize(224)", ("b", 3, 160, "w"), r"ends at images of 224×224 .*takes 160×any"),
        ("resize(short=256)", ("b", 3, 224, 224), r"ends at images of any size, but the model takes 224×224"),
        ("crop(224x160)", ("b", 3, 160, 224), r"ends at images of 224×160 .*takes 160×224"),
        ("resize(224),crop(100)", ("b", 3, 224, 224), r"ends at images of 100×100"),
        ("bgr", ("b", 1, 8, 8), "takes 3 channels"),
        ("imagenet", ("b", 8, 8, 1), "takes 3 channels"),
        ("normalize(0.5,1|1|2)", ("b", 8, 8, 1), "takes 3 channels"),
        ("scale", ("b", 10), "no batch of images"),
        ("scale", ("b", 8, 8, 4), "no batch of images"),
    ],
)
def test_words_that_do_not_go_with_the_model(words: str, shape: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocess.parse(words).check(TensorSpec("x", shape, "float32"))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "bfloat16", "string"])
def test_models_that_take_no_floats(dtype: str) -> None:
    with pytest.raises(UsageError, match="ends at float32 or float16"):
        Preprocess.parse("none").check(TensorSpec("x", ("b", 8, 8, 3), dtype))


def test_words_that_fit() -> None:
    for words in ("resize(224)", "resize(short=256),crop(224)", "none", "resize(200),crop(224)"):
        Preprocess.parse(words).check(NCHW)
    Preprocess.parse("resize(short=64)").check(TensorSpec("x", ("b", 3, "h", "w"), "float32"))


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 9, 9, 3), np.uint8), np.zeros((1, 224, 224, 3)), np.zeros((0, 224, 224, 3), np.uint8)],
)
def test_images_that_are_none(images: np.ndarray) -> None:
    with pytest.raises(UsageError, match="images are"):
        Preprocess.parse("scale").apply(images, NCHW)
