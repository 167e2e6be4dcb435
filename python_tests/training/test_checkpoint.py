"""Checkpoints: what goes in comes out; damage is noticed; the previous file survives."""

import contextlib

import pytest
import torch
from safetensors.torch import save_file

from mild_ext import sealed
from mild_ext.files import CannotWrite
from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def state():
    shared = torch.arange(6.0)
    return {
        "model": {"a.weight": shared.view(2, 3), "a.tied": shared.view(2, 3).t()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "groups": [{"betas": (0.9, 0.99)}],
        },
        "flags": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
        "nothing": None,
        "text": "größer",
        "numbers": [1, 2.5, True],
    }


def test_round_trip_keeps_kinds_keys_and_values(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state())
    loaded, expected = load_checkpoint(path), state()
    assert torch.equal(loaded["model"]["a.weight"], expected["model"]["a.weight"])
    assert torch.equal(loaded["model"]["a.tied"], expected["model"]["a.tied"])
    assert loaded["optimizer"]["state"][0]["step"] == 3
    assert loaded["optimizer"]["groups"] == [{"betas": (0.9, 0.99)}]
    assert loaded["flags"].dtype == torch.bool
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["empty"].shape == (0,)
    assert loaded["nothing"] is None
    assert loaded["text"] == "größer"
    assert loaded["numbers"] == [1, 2.5, True]
    assert type(loaded["numbers"][2]) is bool
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_what_cannot_be_written_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(TypeError, match="cannot hold a set"):
        save_checkpoint(path, {"step": {1}})

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(sealed, "save_file", fail)
    with pytest.raises(CannotWrite, match=r"c\.safetensors.*earlier file.*complete"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


def test_a_killed_write_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"step": 1})
    (tmp_path / ".c.safetensors.partial").write_bytes(b"half a file")
    assert load_checkpoint(path) == {"step": 1}
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)


def test_damaged_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"weights": torch.arange(100.0)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged.*t00000"):
        load_checkpoint(path)


def test_a_flipped_byte_anywhere_in_the_header_is_noticed(tmp_path):
    """Whatever bit is flipped: refused, or (in the blanks that fill the header up) the same state."""
    path = tmp_path / "c.safetensors"
    saved = {"step": 12, "name": "round 1", "counts": torch.arange(4, dtype=torch.uint8)}
    save_checkpoint(path, saved)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    refused = 0
    for position in range(8, 8 + length):
        for bit in (1, 2, 8):
            damaged = bytearray(content)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            if chr(content[position]).isspace():
                with contextlib.suppress(CheckpointError):
                    assert str(load_checkpoint(path)) == str(saved)
            else:
                with pytest.raises(CheckpointError, match=str(path)):
                    load_checkpoint(path)
                refused += 1
    assert refused > 2 * length
    start = content.index(b"round 1")
    damaged = bytearray(content)
    damaged[start] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"checksum of its header.*delete it"):
        load_checkpoint(path)


def test_the_kind_of_a_tensor_is_part_of_the_checksum(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"counts": torch.arange(4, dtype=torch.uint8)})
    content = path.read_bytes()
    assert content.count(b'"U8"') == 1
    path.write_bytes(content.replace(b'"U8"', b'"I8"'))
    with pytest.raises(CheckpointError, match="checksum of its header"):
        load_checkpoint(path)


def test_checkpoints_of_earlier_versions_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    metadata = {"format": "mild_ext-checkpoint-1", "tree": '{"$dict": []}', "crc32": "{}"}
    save_file({}, path, metadata=metadata)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of this version.*checkpoint-1.*delete it"
    ):
        load_checkpoint(path)


def test_foreign_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        load_checkpoint(path)
    path.write_text("some text, long enough to have a header length")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
