"""A process that stores pages on disk for ever, until it is killed. argv: folder."""

from __future__ import annotations

import sys
from pathlib import Path

from tier_kit import Rig, chain, disk

rig = Rig(disk(Path(sys.argv[1]), 48), blocks=64)
print("ready", flush=True)
number = 0
while True:
    rig.store(chain(number, 16))
    number += 1
    print(number, flush=True)
