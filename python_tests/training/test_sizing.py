"""Sizes of the default recipe: what follows from the data, and what stays because somebody chose it."""

import math

import pytest

from mild_ext.training import Recipe
from mild_ext.training.experiment import RunSettings, choose_settings, prepare_data, size_by_data
from mild_ext.training.sizing import (
    LEAST_EPOCHS,
    LEAST_STEPS,
    MOST_EPOCHS,
    MOST_SCOUTS,
    SCOUTING_STEPS,
    SIZED,
    describe_sizes,
    sized,
)

PHOTO, ROW = (3, 32, 32), (64,)


def image(count, recipe=None, keep=(), shape=PHOTO):
    recipe = recipe or Recipe()
    return sized(recipe, kind="image", num_samples=count, input_shape=shape, keep=keep)


def steps(recipe, count):
    return math.ceil(count / (recipe.batch_size * recipe.accumulate)) * recipe.first_epochs


@pytest.mark.parametrize("kind", ["image", "vector"])
@pytest.mark.parametrize("count", [60, 500, 1500, 5000, 20_000, 1_000_000])
def test_every_size_trains_enough_and_scouts_within_its_budget(kind, count):
    shape = PHOTO if kind == "image" else ROW
    recipe = sized(Recipe(), kind=kind, num_samples=count, input_shape=shape)
    own = steps(recipe, count)
    assert LEAST_EPOCHS <= recipe.first_epochs <= MOST_EPOCHS
    assert own >= LEAST_STEPS or recipe.first_epochs == MOST_EPOCHS
    assert own - steps(recipe, count) / recipe.first_epochs < LEAST_STEPS or (
        recipe.first_epochs == LEAST_EPOCHS
    )
    assert 1 <= recipe.scouts <= MOST_SCOUTS
    assert recipe.scouts == 1 or recipe.scouts * own <= SCOUTING_STEPS
    if recipe.scouts < MOST_SCOUTS and (kind == "vector" or recipe.stride == 2):
        assert (recipe.scouts + 1) * own > SCOUTING_STEPS
    assert recipe.final_epochs == 2 * recipe.first_epochs


def test_few_images_take_small_steps_and_half_the_pixels():
    few, many = image(1500), image(50_000)
    assert (few.batch_size, few.stride) == (32, 2)
    assert (many.batch_size, many.stride, many.first_epochs, many.scouts) == (128, None, 30, 1)
    assert image(1500, shape=(1, 8, 8)).stride is None  # too few pixels to halve
    assert image(1500, shape=(3, 64, 64)).scouts == 1  # each costs as much as four of half the side


def test_what_somebody_chose_stays_and_the_rest_follows():
    chosen = Recipe(first_epochs=7, batch_size=300, lr=0.3, scouts=9, stride=1)
    keep = ("first_epochs", "batch_size", "lr", "scouts", "stride")
    found = image(1500, chosen, keep)
    for name in keep:
        assert getattr(found, name) == getattr(chosen, name)
    assert found.round_epochs == 7  # from fresh weights, so as many as the first
    assert found.final_epochs == 14
    assert image(1500, chosen, ("batch_size",)).first_epochs == MOST_EPOCHS


def test_only_sizes_change():
    found = image(1500, Recipe(rounds=3, plant=0.1, level=0.7)).to_dict()
    before = Recipe(rounds=3, plant=0.1, level=0.7).to_dict()
    assert {name for name in found if found[name] != before[name]} <= set(SIZED)
    assert "networks of 50 epochs" in describe_sizes(image(1500))


@pytest.mark.parametrize(
    ("recipe", "chosen"), [(None, {}), ("default", {"lr": 0.5}), ("cifar10-sym20", {})]
)
def test_only_the_default_recipe_is_sized(recipe, chosen, tmp_path):
    settings = choose_settings("digits", recipe, chosen, device="cpu", threads=1)
    data, _ = prepare_data(settings)
    found = size_by_data(settings, data)
    if recipe == "default":
        assert found.recipe.lr == 0.5
        assert found.recipe.batch_size == 32
    else:  # the preset of the digits, or another
        assert found == settings
    assert RunSettings.from_dict(found.to_dict()) == found
