"""Rules for normalizations."""

from __future__ import annotations

from converter.model import Array
from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call, literal, short, tuple_of

__all__: list[str] = []

_ROLES = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}


def _kind(array: Array) -> dict[str, str]:
    return {} if array.dtype.name == "float32" else {"dtype": f"torch.{array.dtype.name}"}


@table("BatchNormalization", 7, 9, 14, 15)
def batch_norm(step: Step) -> Result:
    if step.attribute("training_mode", 0) or any(step.used(i) for i in range(1, 5)):
        raise step.refuse("it computes statistics: training mode")
    if step.attribute("spatial", 1) != 1:
        raise step.refuse("statistics by position, expected by channel")
    arrays = {name: array for name, i in _ROLES.items() if (array := step.array(i)) is not None}
    if len(arrays) == 4 and step.free(1, 2, 3, 4) and 2 <= step.rank <= 5:
        made = "nn.BatchNorm" + {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[step.rank]
        plain = _is_plain(step, arrays)
        epsilon = step.attribute("epsilon")
        momentum = round(
            1 - float(step.attribute("momentum", 0.9)), 6
        )  # the share of what was, and of what is new
        text = call(
            made,
            len(arrays["weight"]),
            eps=None if short(epsilon) == "1e-05" else short(epsilon),
            momentum=None if short(momentum) == "0.1" else short(momentum),
            affine=False if plain else None,
            **_kind(arrays["weight"]),
        )
        kept = {n: (_ROLES[n], a) for n, a in arrays.items() if not plain or n.startswith("running")}
        layer = step.layer(text, kept)
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    x, (scale, bias, mean, variance) = step.arg(0), [step.arg(i) for i in (1, 2, 3, 4)]
    return call("F.batch_norm", x, mean, variance, scale, bias, eps=step.real("epsilon"))


def _is_plain(step: Step, arrays: dict[str, Array]) -> bool:
    """Whether scale and offset are ones and zeros that are no weights."""
    own = step.node.weight(1) is None and step.node.weight(2) is None
    return own and bool((arrays["weight"] == 1).all() and (arrays["bias"] == 0).all())


@table("LayerNormalization", 17)
def layer_norm(step: Step) -> Result:
    shape = step.node.shape(0)
    if shape is None:
        raise step.refuse("the rank of its input is not known")
    axis = step.attribute("axis", -1) % len(shape)
    sizes = shape[axis:]
    if step.used(1) or step.used(2) or not all(isinstance(size, int) for size in sizes):
        return _spelled(step, axis - len(shape), "layer_norm")
    scale, bias = step.array(1), step.array(2)
    epsilon = short(step.attribute("epsilon"))
    eps = None if epsilon == "1e-05" else epsilon
    own = scale is not None and scale.shape == tuple(sizes) and (bias is None or bias.shape == scale.shape)
    if own and scale is not None and step.free(1, 2):
        text_sizes = sizes[0] if len(sizes) == 1 else tuple_of(sizes)
        bare = step.node.weight(1) is None and not step.has(2) and bool((scale == 1).all())
        options = {"elementwise_affine": False} if bare else {"bias": None if bias is not None else False}
        text = call("nn.LayerNorm", text_sizes, eps=eps, **options, **_kind(scale))
        if bare:
            return call("F.layer_norm", step.arg(0), tuple_of(sizes), eps=eps)
        tensors = {"weight": (1, scale)} | ({"bias": (2, bias)} if bias is not None else {})
        layer = step.layer(text, tensors)
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    return _spelled(step, axis - len(shape), "layer_norm")


def _spelled(step: Step, axis: int, name: str) -> Result:
    """The formula itself, which broadcasts its weights and puts out its statistics."""
    many = len(step.node.outputs) > 1
    text = call(
        step.helper(f"{name}_with_statistics" if many else f"{name}_over"),
        step.arg(0),
        step.arg(1),
        *([step.optional(2) or "None"] if name == "layer_norm" else []),
        axis,
        step.real("epsilon"),
    )
    return (
        Many(text + ("" if len(step.node.outputs) == 3 else f"[:{len(step.node.outputs)}]")) if many else text
    )


@table("RMSNormalization", 23)
def rms_norm(step: Step) -> Result:
    shape, scale = step.node.shape(0), step.array(1)
    if shape is None:
        raise step.refuse("the rank of its input is not known")
    axis = step.attribute("axis", -1) % len(shape)
    sizes = shape[axis:]
    if scale is not None and scale.shape == tuple(sizes) and step.free(1):
        eps = short(step.attribute("epsilon"))
        if step.node.weight(1) is None and bool((scale == 1).all()):
            return call("F.rms_norm", step.arg(0), tuple_of(sizes), eps=eps)
        text = call("nn.RMSNorm", sizes[0] if len(sizes) == 1 else tuple_of(sizes), eps=eps, **_kind(scale))
        layer = step.layer(text, {"weight": (1, scale)})
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    return _spelled(step, axis - len(shape), "rms_norm")


@table("GroupNormalization", 21)
def group_norm(step: Step) -> Result:
    groups = step.attribute("num_groups")
    scale, bias = step.array(1), step.array(2)
    epsilon = short(step.attribute("epsilon"))
    if scale is not None and bias is not None and step.free(1, 2):
        eps = None if epsilon == "1e-05" else epsilon
        text = call("nn.GroupNorm", groups, scale.size, eps=eps, **_kind(scale))
        layer = step.layer(text, {"weight": (1, scale), "bias": (2, bias)})
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    return call("F.group_norm", step.arg(0), groups, step.arg(1), step.arg(2), eps=epsilon)


@table("InstanceNormalization", 1, 6, 22)
def instance_norm(step: Step) -> Result:
    scale, bias = step.array(1), step.array(2)
    epsilon = short(step.attribute("epsilon"))
    if scale is not None and bias is not None and step.free(1, 2) and 3 <= step.rank <= 5:
        eps = None if epsilon == "1e-05" else epsilon
        kind = f"nn.InstanceNorm{step.rank - 2}d"
        text = call(kind, scale.size, eps=eps, affine=True, **_kind(scale))
        layer = step.layer(text, {"weight": (1, scale), "bias": (2, bias)})
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    return call("F.instance_norm", step.arg(0), weight=step.arg(1), bias=step.arg(2), eps=epsilon)


@table("LRN", 1, 13)
def lrn(step: Step) -> Result:
    size = step.attribute("size")
    # ONNX's window reaches further to the end, PyTorch's to the start: they differ where the size is even.
    name = "F.local_response_norm" if size % 2 else step.helper("local_response_norm")
    return call(name, step.arg(0), size, step.real("alpha"), step.real("beta"), step.real("bias"))


@table("MeanVarianceNormalization", 9, 13)
def mean_variance(step: Step) -> Result:
    axes = list(step.attribute("axes", [0, 2, 3]))
    return call(step.helper("mean_variance_norm"), step.arg(0), axes)


@table("LpNormalization", 1, 22)
def lp_norm(step: Step) -> Result:
    order, axis = step.attribute("p", 2), step.attribute("axis", -1)
    return call(step.helper("lp_norm"), step.arg(0), literal(order), axis)


@table("Softmax", 13)
def softmax(step: Step) -> Result:
    return call("F.softmax", step.arg(0), dim=step.attribute("axis", -1))


@table("LogSoftmax", 13)
def log_softmax(step: Step) -> Result:
    return call("F.log_softmax", step.arg(0), dim=step.attribute("axis", -1))


@table("Hardmax", 13)
def hardmax(step: Step) -> Result:
    return call(step.helper("hardmax"), step.arg(0), step.attribute("axis", -1))


def _flattened(step: Step, function: str) -> Result:
    """Before opset 13 all axes from `axis` on are one."""
    axis = step.attribute("axis", 1) % step.rank
    if axis == step.rank - 1:
        return function.format(step.arg(0), -1)
    x = step.name(0)
    return f"{function.format(f'{x}.flatten({axis})', -1)}.reshape({x}.shape)"


@table("Softmax", 1, 11)
def softmax_flat(step: Step) -> Result:
    return _flattened(step, "F.softmax({}, dim={})")


@table("LogSoftmax", 1, 11)
def log_softmax_flat(step: Step) -> Result:
    return _flattened(step, "F.log_softmax({}, dim={})")


@table("Hardmax", 1, 11)
def hardmax_flat(step: Step) -> Result:
    return _flattened(step, step.helper("hardmax") + "({}, {})")
