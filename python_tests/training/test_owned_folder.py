"""A folder of one process: marked, locked while it is used, and cleared of this program's files only."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from ranks import forks

from mild_ext.training import owned_folder as module
from mild_ext.training.owned_folder import LOCK, MARKER, FolderInUse, OwnedFolder

KNOWN = ("config.json", "checkpoints/*.safetensors", "status/round-*.safetensors")


def folder(path, kind="run"):
    return OwnedFolder(path, kind, KNOWN)


def test_a_claimed_folder_is_marked_and_ours(tmp_path):
    one = folder(tmp_path / "a" / "b")
    assert one.is_untouched
    assert not one.is_ours
    one.claim()
    assert one.is_ours
    assert one.is_untouched
    assert not folder(one.path, "comparison").is_ours
    one.claim()  # again does nothing


def test_clearing_deletes_what_is_known_and_names_the_rest(tmp_path):
    one = folder(tmp_path / "run")
    one.claim()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "round-00.safetensors").touch()
    for name in ("config.json", "checkpoints/rounds.safetensors", "checkpoints/deep/x.safetensors",
                 "thesis.tex", "photos/config.json", "configXjson"):  # fmt: skip
        (one.path / name).parent.mkdir(parents=True, exist_ok=True)
        (one.path / name).write_text("x")
    (one.path / "status").symlink_to(outside)
    assert one.clear() == [
        "checkpoints/deep/x.safetensors", "configXjson", "photos/config.json", "thesis.tex",
    ]  # fmt: skip
    assert not (one.path / "config.json").exists()
    assert not (one.path / "checkpoints" / "rounds.safetensors").exists()
    assert (outside / "round-00.safetensors").exists(), "a link was followed"
    assert (one.path / "thesis.tex").exists()


def test_nothing_is_deleted_where_this_program_has_not_made_the_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"not made by mild_ext.*another --out"):
        folder(tmp_path).clear()
    one = folder(tmp_path)
    one.claim()  # as a resume of a run of an earlier version does
    assert not one.is_ours, "a folder with things in it is not marked"
    with pytest.raises(ValueError, match="not made by mild_ext"):
        one.clear()
    assert (tmp_path / "config.json").exists()


# -------------------------------------------------------------------------------------- the lock


def _hold(path, ready, go_on, with_child):
    one = folder(path)
    one.claim()
    if with_child and os.fork() == 0:  # a worker that reads data, and outlives its parent
        ready.set()
        time.sleep(30)
        os._exit(0)
    ready.set()
    go_on.wait(60)


def held(path, *, with_child=False):
    context = forks()
    ready, go_on = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(path, ready, go_on, with_child), daemon=True)
    process.start()
    assert ready.wait(60)
    return process, go_on


@pytest.mark.slow
def test_two_processes_cannot_have_it_and_the_message_names_the_first(tmp_path):
    process, go_on = held(tmp_path / "run")
    with pytest.raises(FolderInUse, match=rf"in use by process {process.pid} on "):
        folder(tmp_path / "run").claim()
    os.kill(process.pid, signal.SIGSTOP)  # not dead, however silent
    with pytest.raises(FolderInUse):
        folder(tmp_path / "run").claim()
    os.kill(process.pid, signal.SIGCONT)
    go_on.set()
    process.join(60)
    folder(tmp_path / "run").claim()


@pytest.mark.slow
@pytest.mark.parametrize("with_child", [False, True])
def test_a_killed_owner_leaves_no_lock_even_where_its_workers_live_on(with_child, tmp_path):
    process, _ = held(tmp_path / "run", with_child=with_child)
    process.kill()
    process.join(60)
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == process.pid
    one = folder(tmp_path / "run")
    for left in reversed(range(50)):  # a worker that has just been forked may hold it for a moment
        try:
            one.claim()
            break
        except FolderInUse:
            assert left
            time.sleep(0.1)
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    one.release()
    assert (tmp_path / "run" / LOCK).read_text() == ""


def test_within_a_process_it_is_one_objects_until_released(tmp_path):
    one, other = folder(tmp_path), folder(tmp_path)
    one.claim()
    with pytest.raises(FolderInUse, match=str(os.getpid())):
        other.claim()
    one.release()
    one.release()
    other.claim()
    del other
    one.claim()


def test_a_process_id_given_out_anew_means_nothing(tmp_path):
    """The dead owner's id is now that of a living process: this one."""
    (tmp_path / MARKER).write_text("mild_ext run\n")
    owner = {"pid": os.getpid(), "host": "here", "boot": module._boot(), "started": "then"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    folder(tmp_path).claim()


def test_an_owner_on_another_machine_lives_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    (tmp_path / MARKER).write_text("mild_ext run\n")
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"pid": 7, "host": "node-b", "boot": "another", "started": "now"}))
    with pytest.raises(FolderInUse, match=r"process 7 on node-b.*last sign of life"):
        folder(tmp_path).claim()
    long_ago = time.time() - module.SILENCE - 5
    os.utime(lock, (long_ago, long_ago))
    one = folder(tmp_path)
    one.claim()
    os.utime(lock, (long_ago, long_ago))
    deadline = time.monotonic() + 20
    while lock.stat().st_mtime < long_ago + 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lock.stat().st_mtime > long_ago + 1, "the owner gives no signs of life"
    one.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 50_000, '{"boot": 3}'])
def test_a_damaged_lock_of_a_dead_owner_is_no_obstacle(text, tmp_path):
    (tmp_path / MARKER).write_text("mild_ext run\n")
    lock = tmp_path / LOCK
    lock.write_bytes(text.encode("utf-8", "surrogateescape"))
    os.utime(lock, (1, 1))
    folder(tmp_path).claim()


def test_what_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/run"):
        folder(tmp_path / "file" / "run").claim()
