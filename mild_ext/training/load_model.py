"""A run's final model, to be used: rebuilt from the settings, weights and class names in the run's folder.

Nothing but JSON and safetensors is read. A model of the user's own (``module:factory``) is only imported where the
caller names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mild_ext.data.random_state import isolated_random_state
from mild_ext.data.readers.table import encode_rows
from mild_ext.reading import reading
from mild_ext.sealed import read_sealed_json
from mild_ext.training.models import build_model
from mild_ext.training.run_folder import ENCODING, MODEL, RunFolder


class TrainedModel(nn.Module):
    """A trained model and the names of its classes.

    Attributes:
        net: the network; its first layer standardizes the inputs as those of training were.
        class_names: K names, in the order of the logits.
        encoding: how rows of a table become inputs (`encode`); None of other data.
        input_shape: of one input, as the run's data were read: ``[C, H, W]`` gray levels of images as
            their reader gives them (uint8, 0 to 255, of image files), else a vector.
    """

    def __init__(
        self,
        net: nn.Module,
        class_names: list[str],
        input_shape: tuple[int, ...],
        encoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.net = net
        self.class_names = class_names
        self.input_shape = input_shape

    def forward(self, inputs: Any) -> Tensor:
        """Logits, float32 ``[B, K]``, of a batch of inputs ``[B, *input_shape]``."""
        if isinstance(inputs, Tensor) and self.input_shape and inputs.shape[1:] != self.input_shape:
            raise ValueError(
                f"inputs must have shape [B, {', '.join(map(str, self.input_shape))}], got "
                f"{list(inputs.shape)}"
            )
        logits: Tensor = self.net(inputs)
        return logits

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Inputs of the rows of a table, by the columns the run was made with; float32 ``[B, features]``.

        Raises:
            ValueError: the run was not made from a table, or a column is missing.
        """
        if self.encoding is None:
            raise ValueError("this model is of no table: give it inputs as its run's data had them")
        return encode_rows(rows, self.encoding)

    def names(self, inputs: Any) -> list[str]:
        """The name of the most probable class of each input of a batch."""
        with torch.no_grad():
            return [self.class_names[k] for k in self(inputs).argmax(1).tolist()]


def load_model(
    run: str | Path, *, model: str | None = None, device: torch.device | str = "cpu"
) -> TrainedModel:
    """The final model of a run that ``mild-ext train`` did.

    Args:
        run: the run's folder.
        model: ``module:factory`` where the run's model is one of your own: calling it runs code, and a folder is
            not trusted to say which. None otherwise.
        device: where to put it.

    Returns:
        TrainedModel, in evaluation mode.

    Raises:
        ValueError: no run, one without a final model, or a model that its settings don't describe.
        ImportError: the model needs timm, or a module of the user's own, that is not there.
    """
    folder = RunFolder(run)
    config, settings = folder.read_config(), folder.read_settings()
    code = settings.code().get("model")
    if code != model:
        hint = f'; give it as model="{code}" if you know that code' if code else ""
        raise ValueError(
            f"model must be {None if code is None else repr(code)} for the run in {run}, got {model!r}{hint}"
        )
    path = folder.path / MODEL
    if not path.is_file():
        why = (
            "mild-ext find trains none: use mild-ext train"
            if config.get("command") == "find"
            else "the run is not finished: go on with mild-ext train --resume"
        )
        raise ValueError(f"there is no model in {run} (no {MODEL}); {why}")
    with reading(path):
        state = load_file(path)
    names = [str(name) for name in config["data"]["classes"]]
    shape = tuple(int(n) for n in config["data"]["input_shape"])
    with isolated_random_state():
        net = build_model(
            settings.recipe.model,
            shape,
            len(names),
            width=settings.recipe.width,
            mean=_statistic(state, "0.mean", shape),
            std=_statistic(state, "0.std", shape),
        )
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} is not the model that {run} describes: {error}") from error
    made = folder.path / ENCODING
    encoding = read_sealed_json(made, "encoding of a table") if made.is_file() else None
    return TrainedModel(net, names, shape, encoding).to(device).eval()


def _statistic(state: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor | None:
    """A statistic of the inputs: per channel of images, else per feature; None where there is none."""
    if name not in state:
        return None
    return state[name].flatten() if len(shape) == 3 else state[name][0]
