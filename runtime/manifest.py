"""The manifest: the one contract between the compiler and the runtime.

The compiler writes it as `plan.json`; the agent and every process read it. It holds no host name: a process
is on a node *index*, and the launcher hands the agents one address per node when they start.
All sizes are in the unit their name ends with; a `block` is `block_size` tokens of KV cache.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

MANIFEST_VERSION = 1


class Role(StrEnum):
    """What a component does."""

    FRONTEND = "frontend"
    ROUTER = "router"
    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"
    CACHE = "cache"
    """It has no process: workers keep their own tiers."""

    @property
    def is_worker(self) -> bool:
        """Whether processes of this role run an engine."""
        return self in (Role.PREFILL, Role.DECODE, Role.AGGREGATED)


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A piece of the manifest: immutable, and an unknown field is an error."""


class ModelRef(_Part, frozen=True):
    """Which weights to load. `path` wins; else `ref` is looked up under the model root of the node."""

    ref: str
    served_name: str
    revision: str | None = None
    path: str | None = None


class KvSettings(_Part, frozen=True):
    """The KV cache of a worker. Both sides of a prefill -> decode edge must agree on `block_size` and `dtype`."""

    block_size: int
    blocks: int
    dtype: str
    prefix_caching: bool = True


class DiskTier(_Part, frozen=True):
    """G3: segment files of one worker under `path` of its node."""

    path: str
    bytes: int


class ObjectTier(_Part, frozen=True):
    """G4: one object per page under `url` (`s3://bucket/prefix` or `file:///folder`), shared by all workers.

    `bytes` bounds what this deployment keeps there; None leaves that to the store.
    """

    url: str
    bytes: int | None = None


class CacheSettings(_Part, frozen=True):
    """The KV tiers of one worker below its device. A tier left out is not there; sizes are this worker's alone.

    `admission`: `all` writes every full block through to the next tier, `frequent` only blocks seen before (TinyLFU).
    """

    host_bytes: int | None = None
    disk: DiskTier | None = None
    object: ObjectTier | None = None
    admission: str = "frequent"


class WorkerSettings(_Part, frozen=True):
    """What an engine process needs to know.

    `engine` names the implementation (`native`, `mocker`, `echo`), `args` is its own free map.
    `transport` is what the plan declared for KV moving into or out of this worker, None if nothing does.
    """

    engine: str
    device: str
    dtype: str
    kv: KvSettings
    context_length: int
    max_batched_tokens: int
    max_sequences: int
    transport: str | None = None
    cache: CacheSettings | None = None
    args: dict[str, object] = {}


class RouterSettings(_Part, frozen=True):
    """How requests are placed. `policy` is `kv`, `round_robin`, `random` or `least_loaded`.

    `bypass_below_tokens`: prompts with fewer uncached tokens than this are prefilled by the decode worker.
    """

    policy: str = "kv"
    overlap_credit: float = 1.0
    prefill_load_scale: float = 1.0
    temperature: float = 0.0
    queue_capacity: int = 1024
    queue_timeout_s: float = 60.0
    bypass_below_tokens: int = 0


class FrontendSettings(_Part, frozen=True):
    """The HTTP side. `request_timeout_s` bounds a request from its first byte to its last token.

    A client that reads slower than its answer is written gets cut off when `max_unread_tokens` wait for it, or
    when it has read nothing for `stalled_client_s`. `router_wait_s` is how long a request waits for a lost router.
    """

    max_body_bytes: int = 4 * 1024 * 1024
    max_concurrent_requests: int = 4096
    request_timeout_s: float = 600.0
    max_unread_tokens: int = 8192
    stalled_client_s: float = 60.0
    router_wait_s: float = 5.0


class HostRef(_Part, frozen=True, tag="host"):
    """A word that the agent completes: the address of a node, with `:port` of the plan where one is given."""

    node: int
    port: int | None = None


class PortRef(_Part, frozen=True, tag="port"):
    """A word that the agent completes: a port of the plan, where the run has it."""

    port: int


class FileRef(_Part, frozen=True, tag="file"):
    """A word that the agent completes: the path of a file of the same launch."""

    name: str


Piece = str | HostRef | PortRef


class Joined(_Part, frozen=True, tag="joined"):
    """A word of several pieces, which the agent completes and puts together."""

    pieces: tuple[Piece, ...]


Word = Piece | FileRef | Joined


class Launch(_Part, frozen=True):
    """How an engine that is a program of its own is started: words after the interpreter, and files they name.

    `python` is its interpreter, that of the agent where it is None. `serves` is where its server listens, None if it
    has none or its user fixed the port; `events` where it publishes KV events, to the process beside it. With `mpi`
    its processes are ranks of one MPI world, one a GPU, which a step over all nodes of the worker starts: the first
    rank is started with the words of part 0, all others with those of part 1.
    """

    words: tuple[Word, ...]
    env: dict[str, Word] = {}
    files: dict[str, str] = {}
    serves: PortRef | None = None
    events: PortRef | None = None
    python: str | None = None
    mpi: bool = False


class RestartPolicy(_Part, frozen=True):
    """How often a process that died is started again: at most `limit` times within `window_s`."""

    limit: int = 5
    window_s: float = 300.0
    backoff_s: float = 0.2


class ProcessSpec(_Part, frozen=True):
    """One process the agent of `node` starts.

    `argv` holds the words after the interpreter (`-m dynamoc.runtime …`); `gpus` are indices on the node;
    `ranks` are the positions of those GPUs in the worker; `ports` maps a purpose (`http`, `plane`, `kv`,
    `metrics`) to a port on the node. Processes start in order of `start_order`, and stop in reverse.
    A worker over several nodes has a process on each: `part` 0 leads and is what others talk to. `launch` is how
    the engine itself is started, None where it is part of this package.
    """

    name: str
    component: str
    role: Role
    replica: int
    node: int
    argv: tuple[str, ...]
    gpus: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    env: dict[str, str] = {}
    ports: dict[str, int] = {}
    part: int = 0
    launch: Launch | None = None
    start_order: int = 0
    ready_timeout_s: float = 120.0
    drain_timeout_s: float = 10.0
    restart: RestartPolicy = RestartPolicy()
    worker: WorkerSettings | None = None
    router: RouterSettings | None = None
    frontend: FrontendSettings | None = None


class PortRange(_Part, frozen=True):
    """The ports of a node that a plan may use."""

    first: int = 21000
    count: int = 8192


class Edge(_Part, frozen=True):
    """A directed edge between components. `kind` is `request` (who calls whom) or `kv` (who sends blocks to whom)."""

    source: str
    target: str
    kind: str
    transport: str | None = None


class Manifest(_Part, frozen=True):
    """The whole plan, as the runtime sees it."""

    version: int
    name: str
    plan_hash: str
    model: ModelRef
    nodes: int
    processes: tuple[ProcessSpec, ...]
    edges: tuple[Edge, ...] = ()
    model_root: str = "~/.cache/dynamoc/models"
    port_range: PortRange = PortRange()

    def process(self, name: str) -> ProcessSpec:
        """The process called `name`; KeyError if there is none."""
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)

    def of_role(self, role: Role) -> tuple[ProcessSpec, ...]:
        """All processes of one role, in plan order."""
        return tuple(process for process in self.processes if process.role is role)

    def on_node(self, node: int) -> tuple[ProcessSpec, ...]:
        """All processes one agent starts, in start order."""
        return tuple(sorted((p for p in self.processes if p.node == node), key=lambda p: p.start_order))

    def model_folder(self, root: Path | None = None) -> Path:
        """Where the weights and the tokenizer are on this node."""
        if self.model.path is not None:
            return Path(self.model.path).expanduser()
        return (root or Path(self.model_root)).expanduser() / self.model.ref


class ManifestError(ValueError):
    """The file is not a manifest this runtime understands."""


def encode_manifest(manifest: Manifest) -> str:
    """Indented JSON with a trailing newline; the same manifest always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2).decode() + "\n"


def decode_manifest(text: str | bytes) -> Manifest:
    """Read and check a manifest; ManifestError says what is wrong with it."""
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"not a manifest of version {MANIFEST_VERSION}: {error}") from error
    if manifest.version != MANIFEST_VERSION:
        raise ManifestError(f"manifest version {manifest.version}, this runtime reads {MANIFEST_VERSION}")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file; ManifestError or OSError."""
    return decode_manifest(path.read_bytes())
