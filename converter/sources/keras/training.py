"""Training a head in Keras, on features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converter.heads import Head
from converter.model import Array
from converter.sources.keras import backend
from converter.sources.keras.heads import head_of, layers_of, put_weights
from converter.sources.keras.initial import seeded
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
    keras = backend.keras()
    kind = loss_of(head)
    losses = {
        "binary": keras.losses.BinaryCrossentropy(),
        "probabilities": keras.losses.SparseCategoricalCrossentropy(),
        "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    training, stopping = kept_apart(rows, settings.seed)
    with seeded(settings.seed):
        layers = layers_of(head, features.ndim, {unit.name: unit.name for unit in head.units})
        model = keras.Sequential([keras.Input(features.shape[1:]), *layers])
        put_weights(head, layers)
        model.compile(keras.optimizers.Adam(settings.rate), losses[kind])
        stop = keras.callbacks.EarlyStopping(
            "val_loss", patience=settings.patience, restore_best_weights=True, mode="min"
        )
        tell = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: progress(epoch + 1, float(logs["val_loss"]))
        )
        history = model.fit(
            _batches(features, labels, training, settings.batch, settings.seed),
            validation_data=_batches(features, labels, stopping, 256, None),
            epochs=settings.epochs,
            callbacks=[stop, tell],
            verbose=0,
        )
    return head_of(head, layers), len(history.history["loss"])


def _batches(features: Array, labels: Array, rows: Array, size: int, seed: int | None) -> Any:
    """Batches read from the features when they are asked for; in another order each epoch, with a seed."""

    class Batches(backend.keras().utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._rng = None if seed is None else np.random.default_rng(seed)
            self._rows = rows
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(rows) // size)

        def __getitem__(self, index: int) -> tuple[Array, Array]:
            chosen = self._rows[index * size : (index + 1) * size]
            return np.asarray(features[chosen]), labels[chosen]

        def on_epoch_end(self) -> None:
            if self._rng is not None:
                self._rows = self._rng.permutation(rows)

    return Batches()
