"""A run's final model, to be used: rebuilt from the settings, weights and class names in the run's folder.

Nothing but JSON and safetensors is read. A model of the user's own (``module:factory``) is only imported where the
caller names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mild_ext.data.random_state import isolated_random_state
from mild_ext.data.readers.encoding import TAKES, as_list, check_encoding, encode_samples
from mild_ext.reading import reading
from mild_ext.sealed import read_sealed_json
from mild_ext.training.backbone import empty_backbone
from mild_ext.training.models import build_model
from mild_ext.training.recipe import Recipe
from mild_ext.training.run_folder import ENCODING, MODEL, RunFolder


class TrainedModel(nn.Module):
    """A trained model and the names of its classes.

    Attributes:
        net: the network; its first layer standardizes the inputs as those of training were.
        class_names: K names, in the order of the logits.
        encoding: how files, texts or rows of a table become inputs (`encode`); None of other data.
        input_shape: of one input, as the run's data were read: ``[C, H, W]`` gray levels of images as
            their reader gives them (uint8, 0 to 255, of image files), else a vector.
        encoder: name or folder of the Hugging Face encoder that reads texts; None where there is none, or where the
            caller of `load_model` did not name it.
    """

    def __init__(
        self,
        net: nn.Module,
        class_names: list[str],
        input_shape: tuple[int, ...],
        encoding: dict[str, Any] | None = None,
        encoder: str | None = None,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.encoder = encoder
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

    def encode(self, samples: Sequence[Any]) -> Tensor:
        """Inputs ``[B, *input_shape]`` of new samples, made as the run made its own.

        Args:
            samples: B paths of images, texts, or rows of a table (mappings from column to cell): what the run was of.

        Raises:
            TypeError: samples of another kind.
            ValueError: the run was of none of these, an image cannot be read, a column is missing, or texts need an
                encoder that `load_model` was not given.
        """
        if self.encoding is None:
            raise ValueError(
                "this model is of no files, texts or table: give it inputs [B, "
                f"{', '.join(map(str, self.input_shape))}] as its run's data had them"
            )
        if self.encoding["kind"] == "encoder" and self.encoder is None:
            name = self.encoding["encoder"]
            raise ValueError(
                f"the run read its texts with the encoder {name}, and a folder is not trusted to say what to load: if "
                f"you know it, load_model(RUN, encoder={name!r})"
            )
        return encode_samples(samples, self.encoding)

    def probabilities(self, samples: Any, *, batch_size: int = 256) -> Tensor:
        """The probability of each class for new samples, float32 ``[B, K]`` on the CPU.

        Args:
            samples: as for `encode`, or inputs ``[B, *input_shape]`` as a tensor or array.
            batch_size: samples at a time.
        """
        if not isinstance(samples, Tensor | np.ndarray):
            each = "an input" if self.encoding is None else TAKES[self.encoding["kind"]]
            samples = as_list(samples, each)
        device = next(self.parameters()).device
        parts = []
        with torch.no_grad():
            for start in range(0, max(1, len(samples)), batch_size):
                some = samples[start : start + batch_size]
                inputs = some if isinstance(some, Tensor | np.ndarray) else self.encode(some)
                logits = self(torch.as_tensor(inputs).to(device))
                parts.append(logits.float().softmax(1).cpu())
        return torch.cat(parts)

    def predict(self, samples: Any, *, batch_size: int = 256) -> list[str]:
        """The name of the most probable class of each new sample; arguments as of `probabilities`."""
        most = self.probabilities(samples, batch_size=batch_size).argmax(1)
        return [self.class_names[k] for k in most.tolist()]

    def names(self, inputs: Any) -> list[str]:
        """The name of the most probable class of each input of a batch."""
        with torch.no_grad():
            return [self.class_names[k] for k in self(inputs).argmax(1).tolist()]


def load_model(
    run: str | Path,
    *,
    model: str | None = None,
    encoder: str | None = None,
    device: torch.device | str = "cpu",
) -> TrainedModel:
    """The final model of a run that ``mild-ext train`` did.

    Args:
        run: the run's folder.
        model: ``module:factory`` where the run's model is one of your own: calling it runs code, and a folder is
            not trusted to say which. None otherwise.
        encoder: the Hugging Face encoder that the run read its texts with, which is loaded from its hub or a folder;
            needed for new texts only. None otherwise.
        device: where to put it.

    Returns:
        TrainedModel, in evaluation mode.

    Raises:
        ValueError: no run, one without a final model, or a model that its settings don't describe.
        ImportError: the model needs timm or torchvision, or a module of the user's own, that is not there.
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
    try:
        net = _built(settings.recipe, state, shape, len(names))
    except RuntimeError as error:
        raise ValueError(f"{path} is not the model that {run} describes: {error}") from error
    made = folder.path / ENCODING
    encoding = None
    if made.is_file():
        found = read_sealed_json(made, "encoding of samples")
        with reading(made, "it is no encoding of samples"):
            encoding = check_encoding(found, shape)
    own = None if encoding is None else encoding.get("encoder")
    if encoder not in (None, own):
        raise ValueError(f"encoder must be {own!r}, or None, for the run in {run}, got {encoder!r}")
    return TrainedModel(net, names, shape, encoding, encoder).to(device).eval()


def _built(
    recipe: Recipe, state: dict[str, Tensor], shape: tuple[int, ...], classes: int
) -> nn.Module:
    """The network with its weights; where a frozen one stands before it, both of them.

    Raises:
        RuntimeError: these are not its weights.
    """
    if recipe.frozen:
        parts = [
            {name.removeprefix(f"{k}."): v for name, v in state.items() if name.startswith(f"{k}.")}
            for k in (0, 1)
        ]
        mean = parts[1].get("0.mean")
        if mean is None:
            raise RuntimeError("it has no layer behind a frozen network")
        head = replace(recipe, model="mlp", weights=None)
        features = _built(head, parts[1], tuple(mean.shape[1:]), classes)
        return nn.Sequential(empty_backbone(recipe.model, parts[0]), features)
    with isolated_random_state():
        net = build_model(
            recipe.model,
            shape,
            classes,
            width=recipe.width,
            stride=recipe.stride,
            mean=_statistic(state, "0.mean", shape),
            std=_statistic(state, "0.std", shape),
        )
    net.load_state_dict(state)
    return net


def _statistic(state: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor | None:
    """A statistic of the inputs: per channel of images, else per feature; None where there is none."""
    if name not in state:
        return None
    return state[name].flatten() if len(shape) == 3 else state[name][0]
