"""What published models were trained on, as words: data of keras.applications and of torchvision's weights.

A test holds both tables to the packages themselves, model by model.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["IMAGENET", "PRESETS", "plain_name"]

# Means and deviations of ImageNet's training images in red, green, blue, of 0..1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# The modes of keras.src.applications.imagenet_utils.preprocess_input.
_CAFFE = "bgr,normalize(103.939|116.779|123.68,1)"
_TF = "scale(1/127.5,-1)"
_TORCH = "scale(1/255),normalize(imagenet)"

# Words → modules and models of `keras.applications`, without underscores.
_KERAS: Mapping[str, str] = {
    _CAFFE: "vgg16 vgg19 resnet resnet50 resnet101 resnet152",
    _TF: "resnetv2 resnet50v2 resnet101v2 resnet152v2 inceptionv3 inceptionresnetv2 xception "
    "mobilenet mobilenetv2 nasnet nasnetlarge nasnetmobile",
    _TORCH: "densenet densenet121 densenet169 densenet201",
    # What these do to pixels is inside the model.
    "": "mobilenetv3 mobilenetv3large mobilenetv3small "
    "efficientnet efficientnetb0 efficientnetb1 efficientnetb2 efficientnetb3 efficientnetb4 "
    "efficientnetb5 efficientnetb6 efficientnetb7 efficientnetv2 efficientnetv2b0 efficientnetv2b1 "
    "efficientnetv2b2 efficientnetv2b3 efficientnetv2s efficientnetv2m efficientnetv2l "
    "convnext convnexttiny convnextsmall convnextbase convnextlarge convnextxlarge",
}

# (shorter side, crop, method) → classification models, as the transforms of their DEFAULT weights have it.
_TORCHVISION: Mapping[tuple[int, int, str], str] = {
    (256, 224, "bilinear"): "alexnet densenet121 densenet161 densenet169 densenet201 googlenet mnasnet0_5 "
    "mnasnet1_0 mobilenet_v3_small resnet18 resnet34 shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 "
    "squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_32",
    (232, 224, "bilinear"): "convnext_base convnext_large mnasnet0_75 mnasnet1_3 mobilenet_v2 "
    "mobilenet_v3_large regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf "
    "regnet_x_800mf regnet_x_8gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf "
    "regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet50 resnext101_32x8d resnext101_64x4d "
    "resnext50_32x4d shufflenet_v2_x1_5 shufflenet_v2_x2_0 wide_resnet101_2 wide_resnet50_2",
    (230, 224, "bilinear"): "convnext_small",
    (236, 224, "bilinear"): "convnext_tiny",
    (242, 224, "bilinear"): "vit_l_16",
    (255, 240, "bilinear"): "efficientnet_b1",
    (342, 299, "bilinear"): "inception_v3",
    (384, 384, "bilinear"): "efficientnet_v2_s",
    (480, 480, "bilinear"): "efficientnet_v2_m",
    (224, 224, "bicubic"): "maxvit_t",
    (232, 224, "bicubic"): "swin_t",
    (238, 224, "bicubic"): "swin_b",
    (246, 224, "bicubic"): "swin_s",
    (256, 224, "bicubic"): "efficientnet_b0",
    (260, 256, "bicubic"): "swin_v2_s swin_v2_t",
    (272, 256, "bicubic"): "swin_v2_b",
    (288, 288, "bicubic"): "efficientnet_b2",
    (320, 300, "bicubic"): "efficientnet_b3",
    (384, 380, "bicubic"): "efficientnet_b4",
    (384, 384, "bicubic"): "regnet_y_128gf",
    (456, 456, "bicubic"): "efficientnet_b5",
    (480, 480, "bicubic"): "efficientnet_v2_l",
    (518, 518, "bicubic"): "vit_h_14",
    (528, 528, "bicubic"): "efficientnet_b6",
    (600, 600, "bicubic"): "efficientnet_b7",
}
# Models of torchvision whose mean and deviation are not ImageNet's.
_NORMALIZED: Mapping[str, str] = {"efficientnet_v2_l": "normalize(0.5,0.5)"}


def plain_name(name: str) -> str:
    """A name as the tables are asked for it: case and underscores do not matter."""
    return name.casefold().replace("_", "")


# `plain_name` → words.
PRESETS: Mapping[str, str] = {
    "none": "",
    "imagenet": _TORCH,
    **{f"keras:{name}": words for words, names in _KERAS.items() for name in names.split()},
    **{
        f"torchvision:{plain_name(name)}": f"resize(short={short},{method}),crop({crop}),scale(1/255),"
        + _NORMALIZED.get(name, "normalize(imagenet)")
        for (short, crop, method), names in _TORCHVISION.items()
        for name in names.split()
    },
}
