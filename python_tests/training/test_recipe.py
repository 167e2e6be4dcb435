"""Recipes: presets, overrides, files."""

import json
import sys
from pathlib import Path

import pytest

from mild_ext.booleans import FALSE, TRUE
from mild_ext.cli import build_parser
from mild_ext.training.recipe import PRESETS, Recipe, preset, read_settings


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_recipe_that_survives_a_round_trip(name):
    recipe = preset(name)
    assert Recipe().override(recipe.to_dict()) == recipe


def test_presets_have_the_settings_of_the_release():
    assert preset("cifar10-sym50").first_epochs == 10
    assert preset("cifar10-sym80").first_weight_decay == 2.5e-3
    assert preset("cifar100-sym20").round_epochs == 50
    assert preset("cifar10-asym40").rounds == 27


def test_override_checks_names_types_and_ranges():
    recipe = Recipe().override({"lr": 1, "clip_norm": None, "ema_decay": 0.99})
    assert recipe.lr == 1.0
    assert type(recipe.lr) is float
    with pytest.raises(ValueError, match="unknown setting learning_rate"):
        recipe.override({"learning_rate": 0.1})
    with pytest.raises(ValueError, match=r"unknown setting \\u000ax; known"):
        recipe.override({"\nx": 0.1})
    with pytest.raises(ValueError, match="unknown setting first_ephocs; did you mean first_epochs"):
        recipe.override({"first_ephocs": 3})
    with pytest.raises(TypeError, match="rounds must be int"):
        recipe.override({"rounds": 2.5})
    with pytest.raises(TypeError, match="lr must be float"):
        recipe.override({"lr": None})
    with pytest.raises(TypeError, match="rounds must be int"):
        recipe.override({"rounds": True})


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 0},
        {"lr": float("nan")},
        {"lr": -0.1},
        {"optimizer": "adam"},
        {"level": 1.0},
        {"ema_decay": 1.0},
        {"clip_norm": 0.0},
        {"validation": -0.1},
    ],
)
def test_values_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Recipe().override(settings)


FILES = {
    "r.toml": 'recipe = "digits"\nlr = 0.5\nfirst-epochs = 3\n',
    "r.yaml": "recipe: digits\nlr: 0.5\nfirst-epochs: 3\n",
    "r.json": '{"recipe": "digits", "lr": 0.5, "first_epochs": 3}',
}


@pytest.mark.parametrize("name", FILES)
def test_settings_from_a_file(tmp_path, name):
    toml = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    pytest.importorskip({".yaml": "yaml", ".toml": toml}.get(Path(name).suffix, "json"))
    (tmp_path / name).write_text(FILES[name])
    assert read_settings(tmp_path / name) == {"recipe": "digits", "lr": 0.5, "first_epochs": 3}


@pytest.mark.parametrize("word", [*TRUE, *FALSE, "Yes", "OFF", 1, 0, True, False])
def test_the_words_of_the_command_line_are_booleans_in_files_too(tmp_path, word):
    (tmp_path / "r.json").write_text(json.dumps({"nesterov": word}))
    expected = str(word).lower() in TRUE
    settings = read_settings(tmp_path / "r.json")
    assert settings == {"nesterov": expected}
    assert Recipe().override(settings).nesterov is expected
    options = build_parser()[0].parse_args(["train", "--out", "x", "--nesterov", str(word)])
    assert options.overrides == {"nesterov": expected}


def test_other_words_are_no_booleans(tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"nesterov": "maybe"}')
    with pytest.raises(ValueError, match="nesterov: expected true or false, got 'maybe'"):
        read_settings(tmp_path / "r.json")
    with pytest.raises(SystemExit):
        build_parser()[0].parse_args(["train", "--out", "x", "--nesterov", "maybe"])
    assert "expected true or false, got 'maybe'" in capsys.readouterr().err


def test_bad_files_are_refused_with_their_name(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "r.ini").write_text("lr=1")
    for name, message in (
        ("list.json", "flat table"),
        ("broken.json", "broken.json"),
        ("r.ini", "must end in"),
        ("none.toml", "no file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_settings(tmp_path / name)


def test_missing_reader_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text("lr: 1.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mild_ext\[config\]"):
        read_settings(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("json", '{"lr": 0.1, "momentum": 0.5, "lr": 0.2}'),
        ("json", '{"batch-size": 32, "batch_size": 64}'),
        ("yaml", "lr: 0.1\nmomentum: 0.5\nlr: 0.2\n"),
        ("toml", "batch-size = 32\nbatch_size = 64\n"),
        ("toml", "lr = 0.1\nlr = 0.2\n"),
    ],
)
def test_a_setting_named_twice_is_refused(tmp_path, suffix, text):
    if suffix == "yaml":
        pytest.importorskip("yaml")
    (tmp_path / f"recipe.{suffix}").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\..* cannot be read: .*(twice|overwrite)"):
        read_settings(tmp_path / f"recipe.{suffix}")


@pytest.mark.parametrize(
    "text",
    ['"\\U99999999": 1', "lr: !!timestamp x", "lr: !!bool x", "lr: !!int", "? [1, 2]\n: 3", "- 1"],
)
def test_whatever_yaml_stumbles_over_is_one_line(tmp_path, text):
    pytest.importorskip("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read: [^\n]+$"):
        read_settings(path)
