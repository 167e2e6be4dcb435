"""``kill -9`` of ``train`` at random moments, in six configurations, until the run ends: is the outcome the same?

python benchmarks/attacks/kills.py [SEED] [KILLS PER CONFIGURATION]
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from attacked_runs import CONFIGURATIONS, command, finish, outcome, seeded, start, write_data


def killed_at_random(words: list[str], out: Path, seconds: float) -> bool:
    """Start a run and kill it so long after its training has begun; False where it had ended by then."""
    history, before = out / "history.jsonl", time.time()
    process = start(words)
    while process.poll() is None and not (history.exists() and history.stat().st_mtime > before):
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is not None:
        assert process.returncode == 0, process.communicate()[1]
        return False
    process.kill()
    process.communicate()
    return True


def main() -> None:
    rng = seeded(sys.argv[1:])
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    total = identical = left = 0
    for name in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            data = write_data(folder)
            status, error, _ = finish(command(data, folder / "whole", name))
            assert status == 0, error
            seconds = json.loads((folder / "whole" / "summary.json").read_text())["seconds"]
            kills = 0
            while kills < wanted:
                going = (folder / "killed" / "config.json").exists()
                words = command(data, folder / "killed", name, resume=going)
                if killed_at_random(
                    words, folder / "killed", rng.uniform(0, seconds / (kills + 1))
                ):
                    kills += 1
                elif going:  # it was faster than that: again from the start
                    shutil.rmtree(folder / "killed")
                    kills = 0
            going = (folder / "killed" / "config.json").exists()
            status, error, _ = finish(command(data, folder / "killed", name, resume=going))
            assert status == 0, error
            same = outcome(folder / "whole") == outcome(folder / "killed")
            left += len(list((folder / "killed").rglob("*.partial")))
            total, identical = total + kills, identical + same
            print(f"{name}: {kills} kills, {'identical' if same else 'DIFFERENT'}", flush=True)
    print(
        f"{total} kills, {identical} of {len(CONFIGURATIONS)} runs identical, {left} files left half-written"
    )


if __name__ == "__main__":
    main()
