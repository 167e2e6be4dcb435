"""``kill -9`` of ``train`` at random moments, in five configurations, until the run ends: is the outcome the same?

python benchmarks/attacks/kills.py [SEED] [KILLS PER CONFIGURATION]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from runs import CONFIGURATIONS, command, finish, outcome, seeded, start, write_data


def main() -> None:
    rng = seeded(sys.argv[1:])
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    total = identical = left = 0
    for name in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            data = write_data(folder)
            status, error, seconds = finish(command(data, folder / "whole", name))
            assert status == 0, error
            kills = 0
            while kills < wanted:
                going = (folder / "killed" / "config.json").exists()
                process = start(command(data, folder / "killed", name, resume=going))
                time.sleep(rng.uniform(0.4, 1.0) * seconds)
                if process.poll() is not None:
                    break  # it was faster than that
                process.kill()
                process.wait()
                kills += 1
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
