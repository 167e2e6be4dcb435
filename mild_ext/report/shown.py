"""What a person sees of a sample on the page: a picture, a text, or the values of a row.

Pictures are made from the files the data was read from where these are found (training sees them small and
cut), else from the model's inputs. The first ones go into the page; the others into a folder beside it.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mild_ext.data.sets import LabeledData
from mild_ext.files import as_name, writing
from mild_ext.report.run_data import Suspect

#: Bytes of pictures in the page itself; with its figures it stays below 5 MB.
EMBEDDED_BYTES = 2_500_000
#: Longer side of a picture, in pixels.
LARGEST_SIDE = 224
#: From this side on a picture is kept as JPEG, below as PNG: small ones must not lose a pixel.
_JPEG_FROM = 64
#: Characters of a text, and values of a row, that are shown.
_TEXT_LENGTH = 600
_ROW_VALUES = 12


@dataclass
class Shown:
    """What is shown of each sample, in their order.

    Attributes:
        pictures: an address (data, or a file beside the page); None where there is none.
        texts: None where there is none.
        note: why something is missing, in words; empty where nothing is.
    """

    pictures: list[str | None]
    texts: list[str | None]
    note: str = ""


@dataclass(frozen=True)
class _Picture:
    content: bytes
    kind: str  # "jpeg" or "png"


def show_samples(
    config: dict[str, Any],
    suspects: list[Suspect],
    folder: Path,
    data: str | None = None,
    loaded: LabeledData | None = None,
) -> Shown:
    """Pictures and texts of samples.

    Args:
        config: the run's.
        suspects: the samples, those that matter most first.
        folder: where the pictures go that the page has no room for; made where there are some.
        data: where the data lies now, as ``--data`` has it; None is where it was, as long as reading it
            runs no code that the folder names.
        loaded: these data, where they have been read already.
    """
    shown = Shown([None] * len(suspects), [None] * len(suspects))
    spec = config["settings"]["data"] if data is None else data
    root = config["data"].get("root") if data is None else None
    files = _SourceFiles(spec, root)
    inputs: _Inputs | None = None
    used = 0
    for k, suspect in enumerate(suspects):
        picture = files.picture(suspect.id)
        if picture is None:
            try:
                inputs = inputs or _Inputs(config, spec, loaded, trusted=data is not None)
                picture, shown.texts[k] = inputs.of(suspect)
            except (ValueError, TypeError, ImportError, OSError, IndexError) as error:
                shown.note = f"No pictures: the data cannot be read any more ({error})."
                return shown
        if picture is None:
            continue
        address = f"data:image/{picture.kind};base64,{base64.b64encode(picture.content).decode()}"
        used += len(address)
        if used > EMBEDDED_BYTES:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{k:06d}.{picture.kind}"
            # Without the flush to disk of each that `write_atomically` makes, which takes longer than all the
            # rest: they can be made again, and the page that shows them is written after them.
            with writing(path):
                path.write_bytes(picture.content)
            address = f"{folder.name}/{path.name}"
        shown.pictures[k] = address
    return shown


class _SourceFiles:
    """The image files of a data set, by sample id, where the id names a file below the data's folder.

    Args:
        spec: of the data, e.g. ``folder:DIR,size=64``.
        root: the folder itself, where it is known.
    """

    def __init__(self, spec: str, root: str | None = None) -> None:
        argument = spec.partition(":")[2]
        while argument and not Path(argument).expanduser().exists() and "," in argument:
            argument = argument.rpartition(",")[0]  # an option
        self.roots: list[Path] = [] if root is None else [Path(root)]
        if argument:
            given = Path(argument).expanduser()
            top = given if given.is_dir() else given.parent  # a table: its pictures lie beside it
            self.roots += [path for path in (*top.glob("[Tt]rain*"), top) if path.is_dir()]

    def picture(self, sample: str) -> _Picture | None:
        from mild_ext.data.readers.images import EXTENSIONS

        path = Path(as_name(sample))
        if path.suffix.lower() not in EXTENSIONS or path.is_absolute() or ".." in path.parts:
            return None  # no picture, or a name that leads out of the data's folder
        for root in self.roots:
            if (root / path).is_file():
                return _picture_of_file(root / path)
        return None


class _Inputs:
    """The model's inputs, read again; of texts and rows what they were made from.

    Raises:
        ValueError: they cannot be read, or are not those of the run any more.
    """

    def __init__(
        self, config: dict[str, Any], spec: str, data: LabeledData | None, *, trusted: bool
    ) -> None:
        from mild_ext.data.readers.sources import load_data, runs_code

        if not trusted and runs_code(spec):
            raise ValueError(
                f"reading {spec} runs code, and a folder is not trusted to say which; if you know it, "
                "give it to mild-ext report as --data"
            )
        if data is None:
            data = load_data(spec, test_fraction=config["settings"]["test_fraction"], seed=0)
        if len(data) != config["data"]["samples"]:
            raise ValueError(f"it has {len(data)} samples now")
        self.data = data.plain or data.train
        self.shape = data.picture_shape or data.input_shape
        self.texts = data.texts

    def of(self, suspect: Suspect) -> tuple[_Picture | None, str | None]:
        if suspect.number is None:
            raise ValueError(f"it has no sample {suspect.id}")
        text = None if self.texts is None else _shorten(str(self.texts[suspect.number]))
        if len(self.shape) != 3:
            return None, text or _row(self.data[suspect.number][0])
        return _picture_of_tensor(self.data[suspect.number][0].reshape(*self.shape)), text


def _shorten(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH else text[:_TEXT_LENGTH].rstrip() + " …"


def _row(values: Any) -> str | None:
    """The first values of an input, where it has some."""
    if not hasattr(values, "flatten"):
        return None
    numbers = values.flatten()
    text = ", ".join(f"{float(value):.4g}" for value in numbers[:_ROW_VALUES])
    return text if len(numbers) <= _ROW_VALUES else f"{text}, … ({len(numbers)} values)"


def _picture_of_file(path: Path) -> _Picture | None:
    """A picture of moderate size; None where the file cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * LARGEST_SIDE, 2 * LARGEST_SIDE))
            return _encode(ImageOps.exif_transpose(image))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _picture_of_tensor(image: Any) -> _Picture:
    """Of an image ``[C, H, W]``: gray levels 0 .. 255, or values that are stretched where they leave [0, 1]."""
    import torch
    from PIL import Image

    values = image.detach().cpu().to(torch.float32)
    if image.dtype == torch.uint8:
        values = values / 255
    elif float(values.min()) < 0 or float(values.max()) > 1:
        span = float(values.max() - values.min())
        values = (values - values.min()) / (span or 1.0)
    if values.shape[0] not in (1, 3):
        values = values[:1]
    pixels = (values.expand(3, -1, -1).permute(1, 2, 0) * 255).round().to(torch.uint8)
    return _encode(Image.fromarray(pixels.contiguous().numpy()))


def _encode(image: Any) -> _Picture:
    """A Pillow image, made no larger than needed, as JPEG or, where it is small, PNG."""
    from PIL import Image

    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I"):  # 16-bit gray levels
        image = image.point(lambda level: level / 256).convert("L")
    image = image.convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    if max(image.size) < _JPEG_FROM:
        image.save(file, "PNG", optimize=True)
        return _Picture(file.getvalue(), "png")
    image.save(file, "JPEG", quality=82)
    return _Picture(file.getvalue(), "jpeg")
