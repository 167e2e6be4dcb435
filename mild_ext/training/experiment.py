"""An experiment: its settings, what is prepared for it, and the trainings it is made of.

A run is five trainings at most: MILD's, or its rounds with their final model, the semi-supervised stage where
it is asked for, and, where there is a test split, plain cross-entropy on everything and (where the
true labels are known) the bound of training on correct labels only. Each keeps its own checkpoint,
so a killed run goes on where it was. A comparison makes use of the same trainings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mild_ext.data.noise import LabelNoise, corrupt_labels, small_inputs
from mild_ext.data.readers.sources import load_data, runs_code
from mild_ext.data.sets import ArrayDataset, LabeledData, stratified_holdout
from mild_ext.training.context import Record, RunContext
from mild_ext.training.loop import derive_seed, fit, steps_per_epoch
from mild_ext.training.methods import Method, SmallLoss
from mild_ext.training.models import build_model
from mild_ext.training.recipe import PRESET_NOISE, PRESETS, Recipe, preset, read_settings
from mild_ext.training.run_posterior import run_posterior
from mild_ext.training.run_result import Round, RoundsResult, fresh_model
from mild_ext.training.run_rounds import run_rounds
from mild_ext.training.sizing import sized
from mild_ext.training.ssl import SemiSupervisedResult, train_stage

#: Pixels a side that large image files are read at for a frozen network: what nearly all of them are trained on.
FROZEN_SIDE = 224
#: A line of a table of models: ``method`` is a key of `METHODS`, ``model`` what people read.
Row = dict[str, Any]


# -------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class RunSettings:
    """What defines a run; saved in ``config.json`` and read back to resume it."""

    data: str
    noise: str
    seed: int
    test_fraction: float
    compare: bool
    device: str
    threads: int
    recipe_name: str
    recipe: Recipe
    learning_logs: bool = False
    #: Settings that somebody chose: sizes that follow from the data leave them alone. None: nothing is sized.
    chosen: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "recipe": self.recipe.to_dict(),
            "chosen": None if self.chosen is None else list(self.chosen),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSettings:
        """What `to_dict` gave.

        Raises:
            ValueError, TypeError: settings that are missing, unknown, or of another type.
        """
        kinds = {item.name: item.type for item in fields(cls)}
        required = {item.name for item in fields(cls) if item.default is MISSING}
        missing, unknown = sorted(required - set(values)), sorted(set(values) - set(kinds))
        if missing or unknown:
            raise ValueError(f"settings that are missing: {missing}, unknown: {unknown}")
        for name, value in values.items():
            if name not in ("recipe", "chosen") and type(value).__name__ != kinds[name]:
                raise TypeError(f"{name} must be {kinds[name]}, got {value!r}")
        if not isinstance(values["recipe"], dict):
            raise TypeError(f"recipe must be a table of settings, got {values['recipe']!r}")
        # Before there was a choice of method, there were rounds.
        recipe = Recipe(method="mild-rounds").override(values["recipe"])
        chosen = values.get("chosen")
        if chosen is not None:
            if not isinstance(chosen, (list, tuple)) or any(
                not isinstance(name, str) for name in chosen
            ):
                raise TypeError(f"chosen must be a list of settings or null, got {chosen!r}")
            chosen = tuple(chosen)
        return cls(**(values | {"recipe": recipe, "chosen": chosen}))

    def code(self) -> dict[str, str]:
        """The settings that make the run import or download something: option and value.

        A folder's word is not enough for these (docs/security.md).
        """
        found = {"data": self.data} if runs_code(self.data) else {}
        name, _, rest = self.recipe.model.partition(":")
        if rest and (name not in ("timm", "torchvision") or ":" in rest):
            found["model"] = self.recipe.model
        return found

    def fingerprint(self) -> str:
        """Identifies the run in the checkpoints of its trainings."""
        values = self.to_dict()
        if self.recipe.method == "mild-rounds":
            del values["recipe"][
                "method"
            ]  # as before there was a choice, so that runs of then go on
        return json.dumps(values)


def choose_settings(
    data: str | None,
    recipe: str | None,
    overrides: Mapping[str, Any],
    *,
    test_fraction: float = 0.0,
    device: str = "auto",
    threads: int = 0,
) -> RunSettings:
    """The settings a person asks for: the preset first, then a file's, then single ones.

    Args:
        data: what to train on.
        recipe: name of a preset, or a file of settings; None takes what suits the data.
        overrides: settings that come before those of the recipe.
        test_fraction, device, threads: as in `RunSettings`.

    Raises:
        ValueError: no data, or settings that don't exist or are out of range.
        TypeError: a setting of the wrong type.
    """
    if data is None:
        raise ValueError("--data is needed, e.g. --data digits or --data npz:FILE")
    if not 0 <= test_fraction < 1:  # which NaN is not either
        raise ValueError(
            f"--test-fraction must be a share in [0, 1), such as 0.2, got {test_fraction}"
        )
    recipe_name = recipe or default_recipe(data)
    base, loaded = recipe_name, dict[str, Any]()
    if Path(recipe_name).suffix:
        loaded = read_settings(Path(recipe_name))
        base = loaded.pop("recipe", "default")
    return RunSettings(
        data=data,
        noise=PRESET_NOISE.get(base, "none"),
        seed=0,
        test_fraction=test_fraction,
        compare=True,
        device=device,
        threads=threads,
        recipe_name=recipe_name,
        recipe=preset(base).override(loaded | dict(overrides)),
        chosen=tuple(sorted(loaded | dict(overrides))) if base == "default" else None,
    )


def size_by_data(settings: RunSettings, data: LabeledData) -> RunSettings:
    """The settings with the default recipe's sizes as they suit the data; other recipes stay as they are."""
    if settings.chosen is None:
        return settings
    recipe = sized(
        settings.recipe,
        kind=data.kind,
        num_samples=len(data),
        input_shape=data.input_shape,
        keep=settings.chosen,
    )
    return replace(settings, recipe=recipe)


def default_recipe(data: str) -> str:
    """The preset that suits a data set, by its specification."""
    name = data.partition(":")[0]
    return name if name in PRESETS else "default"


# ----------------------------------------------------------------------------------- preparation


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where torch can use it, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def prepare_data(settings: RunSettings) -> tuple[LabeledData, LabelNoise | None]:
    """Load the data and put the label noise in."""
    return add_noise(read_data(settings), settings)


def read_data(settings: RunSettings) -> LabeledData:
    """The data as they are, before label noise."""
    side = FROZEN_SIDE if settings.recipe.frozen else None
    return load_data(settings.data, test_fraction=settings.test_fraction, seed=0, side=side)


def add_noise(data: LabeledData, settings: RunSettings) -> tuple[LabeledData, LabelNoise | None]:
    """The same data with the label noise of the settings; None where these ask for none.

    Raises:
        ValueError: data with wrong labels of their own, or a noise that does not fit.
    """
    if settings.noise == "none":
        return data, None
    if data.true_labels is not None and not torch.equal(data.true_labels, data.labels):
        raise ValueError(
            f"{data.name} has wrong labels of its own (its given and true labels differ); "
            "leave out --noise"
        )
    by_instance = settings.noise.startswith("instance")
    noise = corrupt_labels(
        data.labels,
        settings.noise,
        data.num_classes,
        seed=derive_seed(settings.seed, "label noise"),
        class_map=data.noise_map,
        superclasses=data.superclasses,
        inputs=small_inputs(data.plain or data.train) if by_instance else None,
    )
    return replace(data, labels=noise.labels, true_labels=data.labels), noise


def identity(data: LabeledData, settings: RunSettings) -> dict[str, bytes]:
    """What the ranks of a run must have the same of, by name; the device and threads are each one's own."""
    alike = replace(settings, device="", threads=0)
    facts = {
        "settings": alike.fingerprint().encode(),
        "classes": "\0".join(data.class_names).encode("utf-8", "surrogatepass"),
        "labels": data.labels.numpy().tobytes(),
    }
    if data.sample_names is not None:
        names = "\0".join(data.sample_names)
        facts["order of the samples"] = names.encode("utf-8", "surrogatepass")
    elif isinstance(data.train, ArrayDataset):  # a few inputs, which tell an order from another
        ids = torch.linspace(0, len(data) - 1, min(len(data), 256)).long()
        facts["order of the samples"] = data.train.inputs[ids].contiguous().numpy().tobytes()
    return facts


def pick_threads(data: LabeledData, recipe: Recipe) -> int:
    """Threads torch should use: one where a step is too small to be worth sharing out."""
    parameters = sum(p.numel() for p in make_model(data, recipe).parameters())
    small = data.kind == "vector" and parameters * recipe.batch_size < 100_000_000
    if data.kind == "image" and recipe.model in ("auto", "cnn"):
        # Two threads took four times as long over batches of 32 of 32 x 32 pixels at stride 2, on two busy cores.
        height, width = data.input_shape[1:]
        small = recipe.batch_size * height * width < 10_000 * (recipe.stride or 1) ** 2
    return 1 if small else torch.get_num_threads()


def make_model(data: LabeledData, recipe: Recipe) -> nn.Module:
    """The recipe's model for this data, with the inputs' standardization as its first layer."""
    if recipe.frozen and data.kind == "image":
        raise ValueError(
            f"model {recipe.model} is frozen, and there are no features of it here; train all of a timm:NAME with "
            "--pretrained none, or timm for its own weights"
        )
    return build_model(
        "mlp" if recipe.frozen else recipe.model,
        data.input_shape,
        data.num_classes,
        width=recipe.width,
        stride=recipe.stride,
        mean=data.mean,
        std=data.std,
        pretrained=recipe.pretrained,
    )


class Split(NamedTuple):
    """Ids to train on, and ids held out; None where that is all samples, or none."""

    train_ids: Tensor | None = None
    validation_ids: Tensor | None = None


def split_validation(data: LabeledData, settings: RunSettings) -> Split:
    """Hold the recipe's ``validation`` share of each class out."""
    if settings.recipe.validation == 0:
        return Split()
    held = stratified_holdout(
        data.labels, settings.recipe.validation, derive_seed(settings.seed, "validation")
    )
    if not held.any():  # every class is too small to give a sample
        return Split()
    return Split((~held).nonzero().flatten(), held.nonzero().flatten())


# ------------------------------------------------------------------------------------- trainings


@dataclass(frozen=True)
class Outcome:
    """What the trainings of a run came to; ``models`` has a row for each model that was tested."""

    result: RoundsResult
    semi: SemiSupervisedResult | None
    models: list[Row]

    @property
    def model(self) -> nn.Module:
        """The final model: that of the semi-supervised stage, where there was one."""
        model = self.result.model if self.semi is None else self.semi.model
        assert model is not None
        return model


def find_wrong_labels(
    data: LabeledData,
    recipe: Recipe,
    context: RunContext,
    *,
    report: bool = True,
    train_ids: Tensor | None = None,
    learning_logs: bool = False,
    on_round: Callable[[Round], None] | None = None,
) -> RoundsResult:
    """By the recipe's method, with its final model; ``report`` tests each round, for its record only."""
    run = run_posterior if recipe.method == "mild" else run_rounds
    return run(
        data.train,
        lambda: make_model(data, recipe),
        recipe,
        labels=data.labels,
        true_labels=data.true_labels if report else None,
        test=data.test if report else None,
        train_ids=train_ids,
        num_classes=data.num_classes,
        seed=context.seed,
        device=context.device,
        folder=context.folder,
        checkpoint_seconds=context.checkpoint_seconds,
        learning_logs=learning_logs,
        on_round=on_round,
        on_record=context.on_record,
        progress=context.progress,
    )


def go_on_unlabeled(
    data: LabeledData,
    recipe: Recipe,
    result: RoundsResult,
    context: RunContext,
    *,
    method: str | None = None,
    train_ids: Tensor | None = None,
) -> SemiSupervisedResult:
    """The stage after the rounds: the dropped samples go on teaching without their labels.

    It starts from MILD's final weights, or from fresh ones (the recipe's ``ssl_start``).
    """
    model = fresh_model(lambda: make_model(data, recipe), context.seed)
    if recipe.ssl_start == "warm" and result.model is not None:
        model.load_state_dict(result.model.state_dict())
    return train_stage(
        data.train,
        data.labels,
        result.kept,
        model,
        recipe,
        context,
        method=method,
        num_classes=data.num_classes,
        ids=train_ids,
        true_labels=data.true_labels,
    )


@dataclass(frozen=True)
class Trained:
    """A model, None where there was nothing to train it on; its ids, and those kept if it chose.

    ``history``: a record for each of its epochs.
    """

    model: nn.Module | None
    ids: Tensor
    kept: Tensor | None = None
    history: tuple[Record, ...] = ()


def train_method(
    method: Method,
    data: LabeledData,
    recipe: Recipe,
    context: RunContext,
    *,
    epochs: int,
    stage: str,
    checkpoint: str = "training.safetensors",
    train_ids: Tensor | None = None,
) -> Trained:
    """A method that is a single training: fresh weights, its objective, its samples.

    Args:
        epochs: passes over all samples that its optimizer steps are worth; over fewer samples it makes more.
    """
    ids = torch.arange(len(data)) if train_ids is None else train_ids
    steps = epochs * steps_per_epoch(len(ids), recipe)
    if method.needs_true_labels:
        assert data.true_labels is not None
        ids = ids[data.labels[ids] == data.true_labels[ids]]
    if len(ids) == 0:
        return Trained(None, ids)
    objective = None if method.objective is None else method.objective(len(data))
    model = fresh_model(lambda: make_model(data, recipe), context.seed)
    trained = fit(
        model,
        data.train,
        data.labels,
        recipe,
        context,
        epochs=round(steps / steps_per_epoch(len(ids), recipe)),
        stage=stage,
        checkpoint=checkpoint,
        ids=ids,
        objective=objective,
    )
    kept = objective.kept.cpu() if isinstance(objective, SmallLoss) else None
    return Trained(trained.averaged or model, ids, kept, tuple(trained.history))
