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
