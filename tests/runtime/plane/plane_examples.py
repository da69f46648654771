"""One example of every message of the plane."""

from __future__ import annotations

from plane_kit import HERE

from dynamoc.runtime.plane import messages as m

BLOCK = m.StoredBlock(2**64 - 1, 0)
ADDRESS = m.WorkerAddress("decode-0", 3, HERE, 65535)
INFO = m.WorkerInfo(ADDRESS, "decode", "decode", "m", "native", 16, 100, 4096, 2048, 8, "ab", "shm")
OUTPUT = m.TokenOutput(7, (1, 2), "stop", (m.TokenLogprob(-0.5, ((1, -0.5),)),), 16, "boom", True)
SAMPLING = m.Sampling(16, 0.0, 0.9, 40, 2**63, (1, 2), True, 5, 0.1, -0.1)
EXAMPLES: tuple[m.Message, ...] = (
    m.BlocksStored((BLOCK,), 2**64 - 1, "G2"),
    m.BlocksRemoved((0, 2**64 - 1), "G3"),
    m.BlocksCleared(),
    m.KvEvents(9, (m.BlocksStored((BLOCK, BLOCK)), m.BlocksRemoved((1,)), m.BlocksCleared())),
    m.RegisterWorker(INFO),
    m.Registered(False, "why"),
    m.LoadReport(1, 2, 3, 4),
    m.Draining(),
    m.RouteRequest(1, b"\0\1\2\3" * 4096, 128, ("decode-0@3",)),
    m.Routed(1, ADDRESS, ADDRESS, 5),
    m.RouteRefused(1, "timeout", "late"),
    m.PromptComputed(1),
    m.RequestEnded(1),
    m.WorkersWanted(),
    m.Workers((INFO, INFO)),
    m.Generate(1, b"\0" * 8, SAMPLING, ADDRESS, 1.5, 2),
    m.Cancel(1),
    m.StepOutputs((OUTPUT, OUTPUT)),
    m.AttachPool("tcp", b"\xff", "ab"),
    m.PoolAttached("tcp", False, "no"),
    m.PrefillRequest(1, 2, b"\0" * 8, SAMPLING, 3, (4, 5), 6.5, 1),
    m.PrefillWritten(1, 2, (m.WrittenLayers(0, 3, 0, 1, b"c" * 16),)),
    m.PrefillDone(1, 2, OUTPUT, "xxh3", "tcp", 3, 0.5, 0.25, 0.125),
    m.PrefillFailed(1, 2, "why", False),
    m.AbortPrefill(1, 2),
    m.PrefillAborted(1, 2),
)
