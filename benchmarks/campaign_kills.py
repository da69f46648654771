"""kill -9 of a campaign's launcher at random instants: the table at the end is that of a launcher nobody killed.

`python benchmarks/campaign_kills.py --kills 50 --output benchmarks/results/campaign_kills.json`
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from dynamoc.launcher.campaign.opening import open_campaign
from dynamoc.launcher.campaign.running import run_campaign
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.reading import Findings

ROOT = Path(__file__).parent.parent
CAMPAIGN = ROOT / "benchmarks/campaign_kills.yaml"


def fresh(folder: Path) -> Store:
    folder.mkdir(parents=True)
    opened = open_campaign(CAMPAIGN, Findings())
    return create_store(folder, opened.campaign, opened.cluster, opened.texts)


def kill_once(store: Store, wait_s: float) -> bool:
    """Start a launcher, and kill it `wait_s` after it took the lock; whether it was still at work."""
    words = [sys.executable, "-m", "dynamoc", "sweep", "resume", str(store.folder)]
    launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    owner, mark = store.folder / "owner.json", f'"pid":{launcher.pid},'.encode()
    while launcher.poll() is None and not (owner.is_file() and mark in owner.read_bytes()):
        time.sleep(0.002)
    time.sleep(wait_s)
    working = launcher.poll() is None
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    return working


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = fresh(Path(scratch) / "whole")
        began = time.monotonic()
        run_campaign(whole, quiet, lambda _: None)
        whole_s = time.monotonic() - began
        expected = sorted((whole.folder / "results.jsonl").read_bytes().splitlines())
        kills = campaigns = 0
        equal = True
        while kills < arguments.kills:
            campaigns += 1
            store = fresh(Path(scratch) / str(campaigns))
            for _ in range(5):
                kills += kill_once(store, dice.random() * whole_s / 3)
            run_campaign(store, quiet, lambda _: None)
            equal &= sorted((store.folder / "results.jsonl").read_bytes().splitlines()) == expected
            print(f"{kills} kills, {campaigns} campaigns, tables equal: {equal}", flush=True)
    found = {"kills": kills, "campaigns": campaigns, "results": len(expected), "seed": arguments.seed, "equal": equal}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
