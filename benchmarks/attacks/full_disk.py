"""``train`` on a disk that fills up, and in a folder that vanishes: is it one line, and is the resume identical?

The disk is a limit on the size of every file (RLIMIT_FSIZE), which the system meets as it meets a full one; or, with
``MILD_EXT_SMALL_DISK=FOLDER``, a small file system that lies there and is filled with one large file.

    python benchmarks/attacks/full_disk.py [SEED] [TRIES]
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from attacked_runs import command, finish, outcome, seeded, start, write_data


def is_one_line(error: str) -> bool:
    """Whether a failure says in one line what was being written, where, what is safe, and what to do."""
    lines = error.strip().splitlines()
    return (
        len(lines) == 1
        and lines[0].startswith("mild-ext: error: cannot write ")
        and "complete and stays" in lines[0]
        and "--resume" in lines[0]
    )


def main() -> None:
    rng = seeded(sys.argv[1:])
    tries = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    small = os.environ.get("MILD_EXT_SMALL_DISK")
    failed = lines = resumed = identical = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = write_data(folder)
        status, error, seconds = finish(command(data, folder / "whole", "rounds"))
        assert status == 0, error
        sizes = sorted(p.stat().st_size for p in (folder / "whole").rglob("*") if p.is_file())
        for _ in range(tries):
            out = Path(small or folder) / "full"
            shutil.rmtree(out, ignore_errors=True)
            if small:
                free = shutil.disk_usage(small).free
                with open(Path(small) / "filling", "wb") as filling:
                    filling.write(bytes(max(0, free - rng.randrange(sum(sizes)))))
                process = start(command(data, out, "rounds"))
            else:
                limit = rng.randrange(
                    4096, sizes[-1]
                )  # below, the labels' shared memory has no place
                process = start(
                    command(data, out, "rounds"),
                    lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
                )
            error = process.communicate()[1]
            if small:
                (Path(small) / "filling").unlink()
            if process.returncode == 0:
                continue
            failed += 1
            lines += is_one_line(error)
            if not is_one_line(error):
                print(error)
            going = (out / "config.json").exists()
            status, error, _ = finish(command(data, out, "rounds", resume=going))
            resumed += status == 0
            identical += status == 0 and outcome(out) == outcome(folder / "whole")
        told = f"{failed} of {tries} runs failed, {lines} in one line"
        print(f"full disk: {told}; {resumed} resumed, {identical} identical", flush=True)

        failed = lines = 0
        for _ in range(tries):
            out = folder / "gone"
            process = start(command(data, out, "rounds"))
            while not (out / "history.jsonl").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3) * seconds)
            shutil.rmtree(out, ignore_errors=True)
            error = process.communicate()[1]
            failed += process.returncode != 0
            lines += process.returncode != 0 and is_one_line(error)
            if process.returncode and not is_one_line(error):
                print(error)
            shutil.rmtree(out, ignore_errors=True)
        print(f"vanished folder: {failed} of {tries} runs failed, {lines} in one line")


if __name__ == "__main__":
    main()
