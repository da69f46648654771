"""`python -m dynamoc.launcher.slurm.successor RUN`: a job that stops early submits the one that goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dynamoc.launcher.load.point import LoadError
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import ReceiptsError
from dynamoc.launcher.slurm.succession import FAILED, STOPPED_EARLY, follow_up


def main(folder: Path, job: str) -> int:
    """0 when there is a successor, or need be none; 1 when it cannot be submitted from here."""
    try:
        successor = follow_up(folder, tools.Job(job, FAILED, exit_code=STOPPED_EARLY))
    except (tools.SlurmError, ReceiptsError, LoadError) as error:
        print(f"no job could be submitted to go on: {error}", file=sys.stderr)
        return 1
    if successor is not None:
        print(f"job {successor} goes on with what is left")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), os.environ["SLURM_JOB_ID"]))
