"""Training a head in PyTorch, on features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.heads import Head
from converter.model import Array
from converter.sources.torch import backend
from converter.sources.torch.heads import head_of, module_of
from converter.sources.torch.initial import seeded
from converter.training import Training, kept_apart, loss_of

__all__ = ["train"]


def train(
    head: Head,
    features: Array,
    labels: Array,
    rows: Array,
    settings: Training,
    progress: Callable[[int, float], None],
) -> tuple[Head, int]:
    """Train a head; see `converter.fitting.training`."""
    torch = backend.torch()
    loss = _loss(loss_of(head))
    training, stopping = kept_apart(rows, settings.seed)
    rng = np.random.default_rng(settings.seed)
    with seeded(settings.seed):
        module = module_of(head, features.shape).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.rate)
        best, state, since, epoch = np.inf, copy.deepcopy(module.state_dict()), 0, 0
        for epoch in range(1, settings.epochs + 1):
            module.train()
            for chosen in _batches(rng.permutation(training), settings.batch):
                optimizer.zero_grad()
                loss(module(_tensor(features, chosen)), torch.from_numpy(labels[chosen])).backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                total = sum(
                    len(chosen)
                    * float(loss(module(_tensor(features, chosen)), torch.from_numpy(labels[chosen])))
                    for chosen in _batches(stopping, 256)
                )
            value = total / len(stopping)
            progress(epoch, value)
            since += 1
            if value < best:
                best, state, since = value, copy.deepcopy(module.state_dict()), 0
            if since >= settings.patience:
                break
        module.load_state_dict(state)
    return head_of(head, module), epoch


def _batches(rows: Array, size: int) -> list[Array]:
    """Rows in batches; one sample alone joins the batch before, for batch normalisation's sake."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _tensor(features: Array, rows: Array) -> Any:
    return backend.torch().from_numpy(np.asarray(features[rows]))


def _loss(name: str) -> Callable[[Any, Any], Any]:
    torch = backend.torch()
    functional = torch.nn.functional
    if name == "binary":
        return lambda out, labels: functional.binary_cross_entropy(out[:, 0], labels.to(out.dtype))
    if name == "probabilities":
        return lambda out, labels: functional.nll_loss(torch.log(out.clamp_min(1e-7)), labels)
    loss: Callable[[Any, Any], Any] = functional.cross_entropy
    return loss
