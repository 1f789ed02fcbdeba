"""PyTorch trunks to ONNX: this converter beside `create_feature_extractor` with `torch.onnx.export`.

    python benchmarks/torch_export.py [MODEL…] [--runs N]

The first conversion at a middle cut, each in a process of its own. Time runs from the built model to the
file on disk, without cache and, but for `validated`, without validation. The peer's trunk is torchvision's
own, exported with `dynamo=True` and a symbolic batch, as ours has. Latency is ONNX Runtime's, CPU, batch 1,
interleaved runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from exporters import peak_memory, run

MODELS = {
    "resnet50": ("layer3",),
    "mobilenet_v3_small": ("features.8",),
    "vit_b_16": ("encoder.layers.encoder_layer_5",),
    "swin_t": ("features.3",),
}
EXPORTERS = ("converter", "validated", "torch.onnx")


def export(exporter: str, name: str, layer: str | None, path: Path) -> dict[str, Any]:
    """Build the model, export its trunk once, and say how long that took; runs in the child."""
    from converter.sources.torch import backend

    torch, models = backend.torch(), backend.torchvision().models
    import onnxscript  # noqa: F401  # imports are no part of the measured time, on any side
    from torchvision.models.feature_extraction import create_feature_extractor

    import converter.handles

    torch.manual_seed(0)
    model = models.get_model(name).eval()
    example = torch.rand(2, 3, 224, 224)
    start = time.perf_counter()
    if exporter == "torch.onnx":
        with backend.quiet():
            trunk = create_feature_extractor(model, {layer: "y"}).eval()
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                trunk,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                opset_version=18,
                external_data=False,
            )
    else:
        cut = converter.handles.load(model, example=example).cut(to=layer or ())
        cut.save(path.parent / "out", validate=exporter == "validated")
        (path.parent / "out" / "trunk.onnx").rename(path)
    return {"seconds": time.perf_counter() - start, "peak": peak_memory()}


if __name__ == "__main__":
    run(__file__, EXPORTERS, MODELS, export, __doc__ or "")
