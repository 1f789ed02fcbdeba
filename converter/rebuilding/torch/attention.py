"""Rules for attention."""

from __future__ import annotations

from converter.rebuilding.torch.arithmetic import _type
from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call, literal

__all__: list[str] = []


@table("Attention", 23, 24, 25)
def attention(step: Step) -> Result:
    simple = not any(step.has(i) for i in (4, 5, 6)) and not any(step.used(i) for i in (1, 2, 3))
    softcap = step.attribute("softcap", 0.0)
    windows = [step.attribute(f"{side}_window_size", -1) for side in ("left", "right")]
    causal = bool(step.attribute("is_causal", 0))
    shapes = [step.node.shape(i) for i in (0, 1, 3) if step.has(i)]
    # A query that a mask leaves nothing to look at gives zeros in ONNX; in PyTorch zeros or NaN, by kernel.
    plain = simple and not softcap and windows in ([-1, -1], [None, None]) and not (causal and step.has(3))
    scale = step.node.attribute("scale")
    factor = None if scale is None else step.real("scale")
    if plain and all(s is not None and len(s) == 4 for s in shapes[:2]) and not step.has(3):
        groups = shapes[0] and shapes[1] and shapes[0][1] != shapes[1][1]
        same = shapes[0] and shapes[1] and shapes[0][2] == shapes[1][2]
        if not causal or same:
            return call(
                "F.scaled_dot_product_attention",
                *(step.arg(i) for i in range(3)),
                is_causal="True" if causal else None,
                scale=factor,
                enable_gqa="True" if groups else None,
            )
    precision = step.node.attribute("softmax_precision")
    outputs = len(step.node.outputs)
    text = call(
        step.helper("attention"),
        *(step.arg(i) for i in range(3)),
        mask=step.optional(3),
        past_key=step.optional(4),
        past_value=step.optional(5),
        lengths=step.optional(6),
        scale=factor,
        causal="True" if causal else None,
        heads=step.node.attribute("q_num_heads"),
        kv_heads=step.node.attribute("kv_num_heads"),
        softcap=None if not softcap else literal(softcap),
        precision=None if precision is None else f"torch.{_type(step, precision)}",
        window=None if windows == [-1, -1] or windows == [None, None] else tuple(windows),
        mode=step.attribute("qk_matmul_output_mode", 0) if step.used(3) else None,
    )
    return f"{text}[0]" if outputs == 1 else Many(text if outputs == 4 else f"{text}[:{outputs}]")


@table("LinearAttention", 27)
def linear_attention(step: Step) -> Result:
    text = call(
        step.helper("linear_attention"),
        *(step.arg(i) for i in range(3)),
        step.attribute("q_num_heads"),
        step.attribute("kv_num_heads"),
        past=step.optional(3),
        decay=step.optional(4),
        beta=step.optional(5),
        scale=step.real("scale") if step.attribute("scale", 0.0) else None,
    )
    return f"{text}[0]" if len(step.node.outputs) == 1 else Many(text)


@table("RotaryEmbedding", 23)
def rotary_embedding(step: Step) -> Result:
    return call(
        step.helper("rotary_embedding"),
        step.arg(0),
        step.arg(1),
        step.arg(2),
        step.optional(3) or "None",
        heads=step.attribute("num_heads", 0) or None,
        rotated=step.attribute("rotary_embedding_dim", 0) or None,
        interleaved="True" if step.attribute("interleaved", 0) else None,
    )
