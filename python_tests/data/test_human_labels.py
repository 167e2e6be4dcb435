"""Human labels of CIFAR-N, in files made as the authors made theirs."""

import pickle

import numpy as np
import pytest
import torch

from mild_ext.data import corrupt_labels

TRUE = torch.arange(10).repeat(20)
SETS = {
    "aggre": "aggre_label",
    "worst": "worse_label",
    "rand1": "random_label1",
    "rand2": "random_label2",
    "rand3": "random_label3",
}


def label_sets():
    generator = np.random.default_rng(0)
    clean = TRUE.numpy()
    content = {"clean_label": clean}
    for k, key in enumerate(SETS.values()):
        shifted = (clean + generator.integers(1, 10, len(clean))) % 10
        content[key] = np.where(generator.random(len(clean)) < 0.1 * (k + 1), shifted, clean)
    return content


def save(path, content):
    if path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "file.npy"])
@pytest.mark.parametrize("variant", SETS)
def test_each_label_set_of_each_kind_of_file(tmp_path, name, variant):
    content = label_sets()
    path = save(tmp_path / name, content)
    noise = corrupt_labels(TRUE, f"cifar-n:{variant}:{path}", 10)
    assert noise.labels.tolist() == content[SETS[variant]].tolist()
    assert noise.rate == (content[SETS[variant]] != TRUE.numpy()).mean()
    assert noise.seed is None


@pytest.mark.parametrize("key", ["noisy_label", "noise_label"])
def test_cifar100n(tmp_path, key):
    true = torch.arange(100)
    content = {"clean_label": torch.arange(100), key: (torch.arange(100) + 1) % 100}
    path = save(tmp_path / "CIFAR-100_human.pt", content)
    assert torch.equal(corrupt_labels(true, f"cifar-n:noisy:{path}", 100).labels, (true + 1) % 100)


def test_files_that_do_not_fit_are_refused(tmp_path):
    content = label_sets()
    path = save(tmp_path / "CIFAR-10_human.pt", content)
    for spec, true, message in (
        (f"cifar-n:best:{path}", TRUE, "label sets aggre, worst"),
        (f"cifar-n:noisy:{path}", TRUE, "it has aggre, worst"),
        ("cifar-n:worst:/nowhere.pt", TRUE, "no file"),
        (f"cifar-n:worst:{path}", TRUE[:-1], "200 labels"),
        (f"cifar-n:worst:{path}", TRUE.flip(0), "differ from the data set's.*_ordered"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt_labels(true, spec, 10)


@pytest.mark.parametrize("name", ["evil.pt", "evil.npy"])
def test_malicious_files_are_refused_and_not_executed(tmp_path, name):
    victim = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return open, (str(victim), "w")

    path = save(tmp_path / name, label_sets() | {"worse_label": Evil()})
    with pytest.raises(ValueError, match="nothing was executed"):
        corrupt_labels(TRUE, f"cifar-n:worst:{path}", 10)
    assert not victim.exists()
    path.write_bytes(pickle.dumps({"a": 1})[:-1])
    with pytest.raises(ValueError, match=r"cannot be read|is not read"):
        corrupt_labels(TRUE, f"cifar-n:worst:{path}", 10)
