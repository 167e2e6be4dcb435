"""`mild-ext info` tells the truth about this machine, and what to do about what is missing."""

import pytest
import torch

import mild_ext
from mild_ext.commands import info


def test_report_names_versions_and_devices():
    text = info.report()
    assert mild_ext.__version__ in text
    assert torch.__version__ in text
    assert "\ncpu " in text
    assert "\ncuda" in text


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        (80, ["80-real"], True),
        (89, ["80-real"], True),  # binary compatible within a major version
        (80, ["86-real"], False),  # but not backward
        (90, ["80-real", "80-virtual"], True),  # PTX is compiled for newer devices
        (75, ["80-real", "80-virtual"], False),
        (90, ["90"], True),
        (90, ["90a-real"], True),
    ],
)
def test_which_devices_a_build_has_code_for(capability, architectures, runs):
    assert info.runs_on(capability, architectures) is runs


def test_missing_cuda_comes_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "install a CUDA build of torch" in info.report()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi" in info.report()


def test_missing_extra_comes_with_the_command(monkeypatch):
    monkeypatch.setattr(info, "_installed", lambda name: name != "matplotlib")
    assert "missing matplotlib: pip install 'mild_ext[plot]'" in info.report()
