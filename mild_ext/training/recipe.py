"""Recipes: every setting of a run in one flat, frozen dataclass, and the named presets."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from mild_ext.booleans import parse_bool
from mild_ext.files import as_text
from mild_ext.reading import read_text, reading
from mild_ext.spelling import did_you_mean

#: Largest share of the samples that can be planted; as in `mild_ext.selection.planted`, whose import takes
#: longer than the help of the command line may.
MAX_PLANT = 0.1
#: Shares of the samples planted by default: where wrong labels are looked for, and in the one training that also
#: makes the model, which each planted label costs something. Where so many cannot be, planting is left out with a note;
#: a share that somebody asked for is an error then.
DEFAULT_PLANT, TRAINING_PLANT = 0.05, 0.03


def _setting(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """How to train, how many rounds, and how to select. Immutable; change it with `override`."""

    model: str = _setting(
        "auto",
        "mlp, cnn, resnet18, resnet34, module:factory, or pretrained and frozen: timm:NAME, torchvision:NAME",
    )
    pretrained: str = _setting(
        "auto",
        "weights to start from, all of them trained: none, timm (its own, downloaded), or a .safetensors file; auto: "
        "timm: and torchvision: are frozen, others start afresh",
    )
    weights: str | None = _setting(
        None, "file of a frozen network's weights, .safetensors or .pth (none: its library's own)"
    )
    width: int | None = _setting(None, "units of a hidden layer, or channels (none: 256, 32)")
    stride: int | None = _setting(
        None,
        "stride of the small CNN's first convolution; none: 2 for images of 48 pixels and more",
    )
    method: str = _setting(
        "mild",
        "mild: one training, whose targets follow the votes once wrong labels begin to be memorized; mild-rounds: "
        "rounds that drop samples, and a final training without them",
        ("mild", "mild-rounds"),
    )
    rounds: int = _setting(7, "mild-rounds: largest number of rounds, the first one included")
    first_epochs: int = _setting(30, "epochs to find the wrong labels in")
    round_epochs: int = _setting(30, "mild-rounds: epochs of every later round")
    final_epochs: int = _setting(
        60, "epochs of the final training on the kept samples; mild: the rest of its one training"
    )
    final: str = _setting(
        "scratch", "mild-rounds: how the final training starts", ("scratch", "continue")
    )
    plant: float | None = _setting(
        None,
        "share of the samples given a wrong label on purpose in the first epochs, to measure the noise; 0 plants none "
        f"(none: {DEFAULT_PLANT:g}; {TRAINING_PLANT:g} in the one training of the method mild)",
    )
    record: str = _setting(
        "auto",
        "what each round records: status, classes, or all (training dynamics); auto: classes where labels are planted",
        ("auto", "status", "classes", "all"),
    )
    scouts: int = _setting(
        1,
        "networks that measure the noise, at most",
    )
    min_removed: float = _setting(
        0.01, "mild-rounds: stop when a round drops less than this share of its samples"
    )
    rule: str = _setting(
        "posterior", "selection rule", ("posterior", "release", "scale", "quantile")
    )
    level: float = _setting(
        0.5,
        "keep samples whose probability of a right label is above this; quantile: share to keep",
    )
    per_class: bool | None = _setting(
        None,
        "judge each class by its own samples: true, false, or none: as the rule does, together",
    )
    reselect: str = _setting(
        "all",
        "mild-rounds: kept: a dropped sample stays out; all: it is still watched and may return",
        ("kept", "all"),
    )
    round_start: str = _setting(
        "scratch",
        "mild-rounds: weights a later round starts from: those of the round before, or fresh ones",
        ("continue", "scratch"),
    )
    batch_size: int = _setting(128, "samples per step")
    optimizer: str = _setting("sgd", "optimizer", ("sgd", "adamw"))
    lr: float = _setting(0.01, "learning rate at the start of each round")
    momentum: float = _setting(0.9, "momentum of SGD")
    nesterov: bool = _setting(False, "Nesterov momentum")
    weight_decay: float = _setting(5e-3, "weight decay")
    first_weight_decay: float | None = _setting(
        None, "weight decay of the first round, if different"
    )
    schedule: str = _setting(
        "cosine",
        "learning rate within a round: cosine to zero, or constant",
        ("cosine", "constant"),
    )
    label_smoothing: float = _setting(0.0, "label smoothing of the cross-entropy")
    augment: str = _setting(
        "auto",
        "auto: crop-flip for color images; crop: shifts only; flip: mirrored only",
        ("auto", "none", "crop", "flip", "crop-flip"),
    )
    validation: float = _setting(0.0, "share of each class held out of training, with given labels")
    precision: str = _setting(
        "float32", "arithmetic of the forward pass", ("float32", "bfloat16", "float16")
    )
    channels_last: bool = _setting(False, "channels-last memory format (images)")
    compile: bool = _setting(False, "compile the model with torch.compile")
    accumulate: int = _setting(1, "batches whose gradients are summed for one optimizer step")
    clip_norm: float | None = _setting(None, "largest norm of the gradient")
    ema_decay: float | None = _setting(None, "decay of the averaged weights used for evaluation")
    workers: int = _setting(0, "worker processes that read data from disk")
    ssl: str = _setting(
        "none",
        "semi-supervised stage: kept samples labeled, dropped ones unlabeled",
        ("none", "fixmatch", "mixmatch"),
    )
    ssl_epochs: int = _setting(100, "passes of the semi-supervised stage over all samples")
    ssl_start: str = _setting(
        "warm",
        "start the stage warm from MILD's final model, or from fresh weights",
        ("warm", "scratch"),
    )
    ssl_ratio: int = _setting(2, "samples without labels per labeled one in a batch")
    ssl_weight: float | None = _setting(
        None, "weight of their loss; none: the method's (FixMatch 1, MixMatch 75)"
    )
    ssl_ramp: float = _setting(0.5, "share of the stage over which that weight rises from zero")
    ssl_confidence: float = _setting(0.95, "FixMatch: least certainty of a pseudo-label")
    ssl_align: str = _setting(
        "given",
        "hold the classes of the pseudo-labels to their shares among all given labels, or the kept",
        ("given", "kept", "none"),
    )

    def __post_init__(self) -> None:
        for name in (
            *("rounds", "first_epochs", "round_epochs", "batch_size", "accumulate"),
            *("scouts", "ssl_epochs", "ssl_ratio"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("final_epochs", "workers", "lr", "momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("level", "min_removed", "validation", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("ssl_ramp", "ssl_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.plant is not None and not 0 <= self.plant <= MAX_PLANT:
            raise ValueError(f"plant must be in [0, {MAX_PLANT:g}], got {self.plant}")
        if self.plant and not self.plants:
            raise ValueError(
                f"plant={self.plant:g} needs rule='posterior' and per_class left to itself, got "
                f"rule={self.rule!r} and per_class={self.per_class}; other rules do not look at planted "
                "labels: leave out plant"
            )
        if self.weights is not None and not self.frozen:
            raise ValueError(
                "weights are those of a frozen network, model timm:NAME or torchvision:NAME; got "
                f"model={self.model!r} and pretrained={self.pretrained!r}"
            )
        if self.ssl_weight is not None and not self.ssl_weight >= 0:
            raise ValueError(f"ssl_weight must not be negative, got {self.ssl_weight}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), got {self.ema_decay}")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        for item in fields(self):
            choices = item.metadata["choices"]
            if choices and getattr(self, item.name) not in choices:
                raise ValueError(
                    f"{item.name} must be one of {', '.join(choices)}; "
                    f"got {getattr(self, item.name)!r}"
                )

    @property
    def plants(self) -> bool:
        """Whether labels are planted in the rounds: only the rule ``posterior``, for all classes, looks at them."""
        return self.plant != 0 and self.rule == "posterior" and not self.per_class

    def planted_share(self, default: float = DEFAULT_PLANT) -> float:
        """Share of the samples to plant, 0 for none; ``default`` where nobody chose one."""
        if not self.plants:
            return 0.0
        return default if self.plant is None else self.plant

    @property
    def frozen(self) -> bool:
        """Whether the model is a pretrained network that stays as it is, and a small one learns of its features."""
        library, _, name = self.model.partition(":")
        return self.pretrained == "auto" and library in ("timm", "torchvision") and name != ""

    def override(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with some settings changed.

        Raises:
            ValueError: an unknown setting, or a value out of range.
            TypeError: a value of the wrong type.
        """
        types = setting_types()
        unknown = sorted(str(name) for name in settings if name not in types)
        if unknown:
            hint = did_you_mean(unknown[0], types)
            named = ", ".join(map(as_text, unknown))
            raise ValueError(f"unknown setting {named}{hint}; known: {', '.join(types)}")
        checked: dict[str, Any] = {}
        for name, value in settings.items():
            base, optional = types[name]
            if base is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not (value is None and optional) and type(value) is not base:
                raise TypeError(f"{name} must be {base.__name__}, got {value!r}")
            checked[name] = value
        return replace(self, **checked)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def setting_types() -> dict[str, tuple[type, bool]]:
    """For each setting its type, and whether it may be None."""
    result: dict[str, tuple[type, bool]] = {}
    for name, hint in get_type_hints(Recipe).items():
        arguments = getattr(hint, "__args__", ())
        bases = [a for a in arguments if a is not type(None)]
        result[name] = (bases[0], True) if bases else (hint, False)
    return result


_CIFAR = dict(
    method="mild-rounds",
    model="resnet34",
    rounds=27,
    first_epochs=70,
    round_epochs=20,
    final_epochs=200,
    min_removed=0.0,
    reselect="kept",
    round_start="continue",
    batch_size=128,
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-3,
    augment="crop-flip",
    validation=0.1,
)

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "digits": dict(
        model="mlp",
        first_epochs=20,
        round_epochs=20,
        lr=0.02,
        batch_size=64,
    ),
    # The settings of the authors' release for these experiments; the final training is ours.
    "cifar10-sym20": _CIFAR,
    "cifar10-sym50": _CIFAR | dict(first_epochs=10),
    "cifar10-sym80": _CIFAR | dict(first_weight_decay=2.5e-3),
    "cifar10-asym40": _CIFAR,
    "cifar100-sym20": _CIFAR | dict(round_epochs=50),
    "cifar100-sym50": _CIFAR | dict(round_epochs=50),
    "cifar100-sym80": _CIFAR | dict(round_epochs=50, first_weight_decay=2.5e-3),
    "cifar100-asym40": _CIFAR | dict(round_epochs=50),
    # Network, optimizer, batch and image size of the usual comparison on the first 50 classes
    # (Li et al., "DivideMix", ICLR 2020, and those after it); epochs and rounds are ours, since MILD's
    # authors have not published theirs. The reader cuts and mirrors the images itself.
    "webvision": dict(
        method="mild-rounds",
        model="timm:inception_resnet_v2",
        pretrained="none",
        rounds=6,
        first_epochs=30,
        round_epochs=15,
        reselect="kept",
        round_start="continue",
        final_epochs=100,
        batch_size=64,
        lr=0.01,
        weight_decay=5e-4,
        augment="none",
        workers=8,
        precision="bfloat16",
        channels_last=True,
    ),
    # ResNet-50 with ImageNet weights, SGD 0.002 and 1e-3, as everybody since Patrini et al., CVPR
    # 2017, and Li et al., 2020, has it, more or less; epochs and rounds are ours.
    "clothing1m": dict(
        method="mild-rounds",
        model="timm:resnet50",
        pretrained="timm",
        rounds=3,
        first_epochs=6,
        round_epochs=4,
        reselect="kept",
        round_start="continue",
        final_epochs=10,
        batch_size=64,
        lr=0.002,
        weight_decay=1e-3,
        augment="none",
        workers=8,
        precision="bfloat16",
        channels_last=True,
    ),
}

#: Noise that goes with a preset unless ``--noise`` says otherwise.
PRESET_NOISE = {
    f"{data}-{name}": noise
    for data in ("cifar10", "cifar100")
    for name, noise in (
        ("sym20", "symmetric:0.2"),
        ("sym50", "symmetric:0.5"),
        ("sym80", "symmetric:0.8"),
        ("asym40", "asymmetric:0.4"),
    )
}


def preset(name: str) -> Recipe:
    """The recipe of that name.

    >>> preset("cifar10-sym50").first_epochs
    10
    """
    if name not in PRESETS:
        raise ValueError(
            f"unknown recipe {name!r}{did_you_mean(name, PRESETS)} (known: {', '.join(PRESETS)})"
        )
    return Recipe(**PRESETS[name])


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML (``.toml``), YAML (``.yaml``, ``.yml``) or JSON (``.json``) file.

    The file is one flat table. It may name the preset it starts from as ``recipe``. Booleans may be
    the words that the command line takes, whatever the format makes of them.

    Raises:
        ValueError: there is no such file, or it is not a table of settings.
        ImportError: the package that reads its format is missing.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    text = read_text(path)
    with reading(path):
        loaded = _parsed(text, path)
        if not isinstance(loaded, dict):
            raise ValueError("it must be one flat table of settings")
        settings = _each_once((str(key).replace("-", "_"), loaded[key]) for key in loaded)
        for name, (kind, _) in setting_types().items():
            # Anything but a word or a number is left to `Recipe.override` to refuse.
            if kind is bool and type(settings.get(name)) in (str, int):
                try:
                    settings[name] = parse_bool(str(settings[name]))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
    return settings


def _parsed(text: str, path: Path) -> Any:
    """What the text of a settings file says; {} where it says nothing."""
    loaded: Any
    if path.suffix == ".toml":
        needs = "reading TOML on Python 3.10 needs tomli: pip install 'mild_ext[config]'"
        loaded = _import_reader(["tomllib", "tomli"], needs).loads(text)
    elif path.suffix in (".yaml", ".yml"):
        yaml = _import_reader(
            ["yaml"], f"reading {path} needs PyYAML: pip install 'mild_ext[config]'"
        )
        try:
            loaded = yaml.safe_load(text)
            node = yaml.compose(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
        if isinstance(node, yaml.MappingNode):
            _each_once((key.value, value) for key, value in node.value)
    elif path.suffix == ".json":
        import json

        loaded = json.loads(text, object_pairs_hook=_each_once)
    else:
        raise ValueError("its name must end in .toml, .yaml, .yml or .json")
    return {} if loaded is None else loaded


def _each_once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of pairs; one of two values of a name would be lost without a word."""
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{as_text(str(name))} is set twice; keep one of them")
        found[name] = value
    return found


def _import_reader(names: list[str], needs: str) -> Any:
    """The first of these modules that is installed."""
    for name in names:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    raise ImportError(needs)
