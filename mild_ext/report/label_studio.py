"""Suspicious samples as tasks for Label Studio, the suggested label as a prediction to accept or reject.

Format: https://labelstud.io/guide/predictions (JSON of pre-annotations; ``choices``), and
https://labelstud.io/guide/storage (addresses of local files).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

#: How Label Studio addresses a file below the folder it was started to serve; the path follows.
LOCAL_FILES = "/data/local-files/?d="

#: By the kind of data: the field that is shown, and the tag that shows it.
_SHOWN = {"image": ("image", "Image"), "text": ("text", "Text"), "vector": ("text", "Text")}


def label_studio_tasks(
    rows: Iterable[Mapping[str, Any]],
    class_names: Sequence[str],
    kind: str,
    *,
    prefix: str = LOCAL_FILES,
) -> list[dict[str, Any]]:
    """Tasks to import into a Label Studio project with the labeling interface `label_studio_config` gives.

    Args:
        rows: as in ``suspects.csv``, by its columns' names: ``id``, ``given_label``, ``suggested_label`` (empty or
            None where there is none), ``suggestion_confidence``, ``suspicion``, ``dropped``; of texts and of
            vectors also ``text``, what is shown (the ``id`` where it is missing). Labels are class names.
        class_names: all classes.
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        prefix: of images, the address in front of the ``id``: that of the folder that Label Studio serves, or
            of a web server.

    Returns:
        One task per row, in their order: ``data`` holds what is shown and the row's columns, ``predictions`` the
        suggestion, with its confidence as ``score``; none where nothing is suggested.

    Raises:
        ValueError: an unknown kind, a row without one of the columns, or a label that is no class.

    Examples:
        >>> row = {"id": "cat/1.jpg", "given_label": "cat", "suggested_label": "dog",
        ...        "suggestion_confidence": "0.9", "suspicion": "1.5", "dropped": "1"}
        >>> [task] = label_studio_tasks([row], ["cat", "dog"], "image")
        >>> task["data"]["image"], task["predictions"][0]["result"][0]["value"]
        ('/data/local-files/?d=cat/1.jpg', {'choices': ['dog']})
    """
    field, _ = _field_and_tag(kind)
    known = set(class_names)
    tasks = []
    for number, row in enumerate(rows):
        missing = [name for name in ("id", "given_label", "suggested_label") if name not in row]
        if missing:
            raise ValueError(
                f"row {number} has no column {missing[0]}; it has {', '.join(row)}: give the rows of suspects.csv"
            )
        suggested = row["suggested_label"] or None
        for name in ("given_label", "suggested_label"):
            if row[name] not in known and (name == "given_label" or suggested):
                raise ValueError(f"row {number}: {name} {row[name]!r} is not one of class_names")
        shown = prefix + quote(str(row["id"])) if field == "image" else row.get("text")
        data: dict[str, Any] = {field: shown or str(row["id"])}
        data |= {key: value for key, value in row.items() if key != field}
        suggestion = (
            []
            if suggested is None
            else [_prediction(field, suggested, row.get("suggestion_confidence"))]
        )
        tasks.append({"data": data, "predictions": suggestion})
    return tasks


def label_studio_config(class_names: Sequence[str], kind: str) -> str:
    """The labeling interface (XML) that the tasks are for: the sample, its given label, a choice of the classes.

    >>> print(label_studio_config(["cat", "dog"], "image"))
    <View>
      <Header value="Labeled: $given_label"/>
      <Image name="image" value="$image"/>
      <Choices name="label" toName="image" choice="single" required="true">
        <Choice value="cat"/>
        <Choice value="dog"/>
      </Choices>
    </View>
    """
    field, tag = _field_and_tag(kind)
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    return (
        '<View>\n  <Header value="Labeled: $given_label"/>\n'
        f'  <{tag} name="{field}" value="${field}"/>\n'
        f'  <Choices name="label" toName="{field}" choice="single" required="true">\n'
        f"{choices}\n  </Choices>\n</View>"
    )


def _field_and_tag(kind: str) -> tuple[str, str]:
    if kind not in _SHOWN:
        raise ValueError(f"kind must be one of {', '.join(_SHOWN)}; got {kind!r}")
    return _SHOWN[kind]


def _prediction(field: str, label: str, confidence: Any) -> dict[str, Any]:
    prediction: dict[str, Any] = {
        "model_version": "mild_ext",
        "result": [
            {
                "id": "suggestion",
                "from_name": "label",
                "to_name": field,
                "type": "choices",
                "value": {"choices": [label]},
            }
        ],
    }
    if confidence not in (None, ""):
        prediction["score"] = float(confidence)
    return prediction
