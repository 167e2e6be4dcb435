"""Tasks for Label Studio: the sample, its columns, and the suggestion as a prediction."""

import xml.etree.ElementTree as ET

import pytest

from mild_ext.report.label_studio import label_studio_config, label_studio_tasks

CLASSES = ["cat", 'a "b" & <c>']
ROW = {
    "id": "cat/1 & 2.jpg",
    "given_label": "cat",
    "suggested_label": CLASSES[1],
    "suggestion_confidence": "0.75",
    "suspicion": "1.5",
    "dropped": "1",
}


def test_a_picture_with_a_suggestion():
    [task] = label_studio_tasks([ROW], CLASSES, "image")
    assert task["data"] == {"image": "/data/local-files/?d=cat/1%20%26%202.jpg", **ROW}
    [prediction] = task["predictions"]
    assert prediction["score"] == 0.75
    [choice] = prediction["result"]
    assert choice["type"] == "choices"
    assert choice["value"] == {"choices": [CLASSES[1]]}
    # What the prediction refers to is what the labeling interface calls it.
    view = ET.fromstring(label_studio_config(CLASSES, "image"))
    control = view.find("Choices")
    assert (choice["from_name"], choice["to_name"]) == (control.get("name"), control.get("toName"))
    assert view.find("Image").attrib == {"name": control.get("toName"), "value": "$image"}
    assert [c.get("value") for c in control] == CLASSES


def test_nothing_suggested():
    for nothing in ("", None):
        [task] = label_studio_tasks([ROW | {"suggested_label": nothing}], CLASSES, "image")
        assert task["predictions"] == []


@pytest.mark.parametrize("kind", ["text", "vector"])
def test_texts_and_rows(kind):
    rows = [ROW | {"text": "my card is lost"}, ROW]
    first, second = label_studio_tasks(rows, CLASSES, kind)
    assert first["data"]["text"] == "my card is lost"
    assert second["data"]["text"] == ROW["id"]
    assert first["predictions"][0]["result"][0]["to_name"] == "text"


def test_pictures_on_a_server():
    [task] = label_studio_tasks([ROW], CLASSES, "image", prefix="https://host/photos/")
    assert task["data"]["image"] == "https://host/photos/cat/1%20%26%202.jpg"


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (ROW, "sound", "kind must be one of image, text, vector; got 'sound'"),
        ({"id": "1"}, "image", "row 0 has no column given_label; it has id"),
        (ROW | {"given_label": "dog"}, "image", "row 0: given_label 'dog' is not one of"),
        (ROW | {"suggested_label": "dog"}, "image", "row 0: suggested_label 'dog' is not one of"),
    ],
)
def test_wrong_input(row, kind, message):
    with pytest.raises(ValueError, match=message):
        label_studio_tasks([row], CLASSES, kind)
