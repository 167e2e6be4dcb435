"""Bits flipped, bytes changed and ends cut in files that are read back: is any of it taken for the truth?

    python benchmarks/attacks/bit_flips.py [SEED] [FLIPS]

The checkpoints are those of a run; the others are small files of each kind (python_tests/test_sealed.py).
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from attacked_runs import command, finish, seeded, write_data

from mild_ext.recording.learning_log import read_learning_log
from mild_ext.training.checkpoint import load_checkpoint
from mild_ext.training.run_rounds import RoundsResult

sys.path[:0] = [str(Path(__file__).parents[2] / "python_tests")]
KINDS, _plain, attempt = (
    getattr(importlib.import_module("test_sealed"), name) for name in ("KINDS", "_plain", "attempt")
)


def main() -> None:
    rng = seeded(sys.argv[1:])
    flips = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    print("file: flips, of them in the header; refused; harmless (the same content); silent")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        status, error, _ = finish(command(write_data(folder), folder / "run", "averaged, logged"))
        assert status == 0, error
        targets = {
            "run: checkpoints/rounds": (
                folder / "run/checkpoints/rounds.safetensors",
                load_checkpoint,
            ),
            "run: checkpoints/training": (
                folder / "run/checkpoints/training.safetensors",
                load_checkpoint,
            ),
            "run: result": (folder / "run/result.safetensors", RoundsResult.load),
            "run: logs/round-00": (folder / "run/logs/round-00.npz", read_learning_log),
        }
        for kind, (write, read) in KINDS.items():
            write(folder / kind)
            targets[kind] = (folder / kind, read)
        for name, (path, read) in targets.items():
            content = path.read_bytes()
            truth, safetensors = _plain(read(path)), content[8:9] == b"{"
            header = 8 + int.from_bytes(content[:8], "little") if safetensors else 0
            refused = same = silent = 0
            for number in range(flips):
                # Every other one in the header, where what is not tensors is.
                most = header if header and number % 2 else len(content)
                damaged = bytearray(content)
                damaged[rng.randrange(most)] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                found, reason = attempt(read, path)
                refused, same = refused + bool(reason), same + (not reason and found == truth)
                silent += not reason and found != truth
            path.write_bytes(content)
            print(
                f"{name}: {flips}, {flips // 2 if header else 0}; {refused}; {same}; {silent}",
                flush=True,
            )


if __name__ == "__main__":
    main()
