"""`mild-ext info` tells the truth about this machine, and what to do about what is missing."""

import pytest
import torch

import mild_ext
from mild_ext.commands import info
from mild_ext.recording import _native


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
        (110, ["75-real", "100-real", "120-real", "120-virtual"], False),
        (110, ["75-real", "100-real", "120-real", "75-virtual"], True),
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


class _Properties:
    name, major, minor, total_memory = "A GPU", 9, 0, 80 << 30


class _Built:
    """The native module as if built by another nvcc, on another driver."""

    def __init__(self, driver, architectures="90-real,75-virtual"):
        self.cuda_version, self.cuda_architectures = "13.0.88", architectures
        self.cuda_driver = lambda: driver
        self.isa = lambda: "plain"


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (13000, ("knows CUDA up to 13.0", "cuda:0", "usable; try mild-ext selfcheck")),
        (12080, ("knows CUDA up to 12.8: update the driver", "not usable with this driver")),
        (0, ("driver was not found", "not usable with this driver")),
    ],
)
def test_the_driver_is_held_against_the_build(monkeypatch, driver, expected):
    built = _Built(driver)
    monkeypatch.setattr(info, "_C", built)
    monkeypatch.setattr(info, "has_cuda", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: _Properties)
    text = info.report()
    for part in expected:
        assert part in text


def test_a_status_on_a_device_whose_driver_is_too_old_says_what_to_do(monkeypatch):
    _native.load_kernels.cache_clear()
    monkeypatch.setattr(_native, "_C", _Built(12080))
    with pytest.raises(RuntimeError, match=r"knows CUDA up to 12\.8: update the driver"):
        _native.load_kernels(0)


def test_missing_and_old_packages_come_with_the_command(monkeypatch):
    versions = {"matplotlib": None, "jinja2": "2.0+local"}
    monkeypatch.setattr(info, "_version", lambda name: versions.get(name, "99.0"))
    text = info.report()
    assert "missing matplotlib: pip install 'mild_ext[plot]'" in text
    # An extra that takes in another one needs what that needs.
    assert "missing matplotlib; too old jinja2: pip install 'mild_ext[report]'" in text
    assert "extra timm          complete" in text


def test_what_an_extra_needs_depends_on_the_python():
    listed = [
        'tomli>=2; python_version < "3.11" and extra == "config"',
        'pyyaml>=6; extra == "config"',
        'mild-ext[config]; extra == "all"',
        "torch>=2.4",
    ]
    old, new = (
        {e: [r.name for r in rs] for e, rs in info.requirements_by_extra(listed, v).items()}
        for v in ((3, 10), (3, 12))
    )
    assert old == {"config": ["tomli", "pyyaml"], "all": ["tomli", "pyyaml"]}
    assert new == {"config": ["pyyaml"], "all": ["pyyaml"]}
