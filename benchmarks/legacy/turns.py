"""What both sides of ``benchmarks/speed.py`` do alike: take a turn when asked, and say what memory it took.

The legacy side runs in an environment of its own, so this imports the standard library only. In: a JSON file
named on the command line, and one JSON line per turn on standard input. Out: one JSON line per turn.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path


def peak_bytes():
    """The most memory this process has held. (getrusage would include the process that started it.)"""
    status = Path("/proc/self/status")
    if not status.is_file():  # macOS, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def take_turns(prepare, description):
    """``prepare`` gets what the JSON file says and returns a function: what is asked -> a turn's result."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("spec", type=Path)
    spec = json.loads(parser.parse_args().spec.read_text(encoding="utf-8"))
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print too; the answers keep their pipe
    turn = prepare(spec)
    print(json.dumps({"ready": True}), file=answer, flush=True)
    for line in sys.stdin:
        cpu = time.process_time()
        result = turn(json.loads(line))
        result |= {"cpu": time.process_time() - cpu, "peak_mib": peak_bytes() / 2**20}
        print(json.dumps(result), file=answer, flush=True)
