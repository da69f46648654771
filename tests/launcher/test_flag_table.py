"""Flag tables from the sources of engines: what is read of them, and how a newer version changes a table."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from dynamoc.compiler.flags import FOLDER, fold, table, version_of
from dynamoc.launcher.flag_source import Seen, read_flags, source_texts
from dynamoc.launcher.flag_table import main, read_table, update, write_table

ARG_UTILS = """
class EngineArgs:
    def add_cli_args(parser):
        kwargs = get_kwargs(CacheConfig)
        group.add_argument("--block-size", **kwargs["block_size"])
        group.add_argument("--enable-prefix-caching", **kwargs["enable_prefix_caching"])
        group.add_argument("--tensor-parallel-size", "-tp", **kwargs["size"])
        parser.add_argument("--headless", action="store_true", default=False)
        parser.add_argument("--kv-cache-dtype", type=str)
        parser.add_argument("positional")
"""
CACHE = """
class CacheConfig:
    block_size: SkipValidation[int] = None
    enable_prefix_caching: bool | None = None
    size: int = 1
"""
CLI_ARGS = """
class FrontendArgs:
    host: Optional[str] = None
    enable_ssl: bool = False
    middleware: list[str] = field(default_factory=list)
"""
SERVER_ARGS = """
class ServerArgs:
    tp_size: A[int, Arg(help="ranks", aliases=["--tensor-parallel-size"])] = 1
    dtype: A[Literal["auto", "half"], "help"] = "auto"
    lora_strict: A[bool, Arg(action=argparse.BooleanOptionalAction)] = True
    skip_tokenizer: A[bool, "help"] = False
    cuda_graph_bs: A[Optional[List[int]], Arg(nargs="+")] = None
    rank: A[int, Derived("not a flag")] = 0
    mirror: A[bool, Arg(no_cli=True)] = False

    def add_cli_args(parser):
        parser.add_argument("--old-switch", action="store_true")
        parser.add_argument("--mem-fraction-static", type=float)
"""
LLM_ARGS = """
class Kind(StrEnum):
    one: str = "one"

class KvCacheConfig(StrictBaseModel):
    enable_block_reuse: bool = Field(default=True)
    tokens_per_block: PositiveInt = 32
    _hidden: int = 0

class MTPDecodingConfig(DecodingBaseConfig):
    decoding_type: Literal["MTP"] = "MTP"
    num_nextn_predict_layers: int = 1

class EagleDecodingConfig(StrictBaseModel):
    decoding_type: Literal["Eagle"] = "Eagle"

SpeculativeConfig: TypeAlias = Optional[Union[MTPDecodingConfig, EagleDecodingConfig]]

class BaseLlmArgs(StrictBaseModel):
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    kv_cache_config: KvCacheConfig = Field(default_factory=KvCacheConfig)
    speculative_config: SpeculativeConfig = None
    kind: Kind = "one"
    kinds: List[KvCacheConfig] = []

class TorchLlmArgs(BaseLlmArgs):
    print_iter_log: bool = False
    model_config: ClassVar[dict] = {}
"""
VLLM = {"engine/arg_utils.py": ARG_UTILS, "config/cache.py": CACHE, "entrypoints/openai/cli_args.py": CLI_ARGS}


def kinds(flags: dict[str, Seen]) -> dict[str, str]:
    return {name: flag.type for name, flag in flags.items()}


def test_flags_of_vllm_have_the_types_of_its_configuration() -> None:
    flags = read_flags("vllm", VLLM)

    assert kinds(flags) == {
        "block-size": "int",
        "enable-prefix-caching": "bool",
        "tensor-parallel-size": "int",
        "headless": "bool",
        "kv-cache-dtype": "str",
        "host": "str",
        "enable-ssl": "bool",
        "middleware": "any",
    }
    assert [name for name, flag in flags.items() if flag.negated] == ["enable-ssl", "enable-prefix-caching"]


def test_flags_of_sglang_are_fields_and_calls() -> None:
    flags = read_flags("sglang", {"srt/server_args.py": SERVER_ARGS})

    assert kinds(flags) == {
        "tp-size": "int",
        "tensor-parallel-size": "int",
        "dtype": "str",
        "lora-strict": "bool",
        "skip-tokenizer": "bool",
        "cuda-graph-bs": "any",
        "old-switch": "bool",
        "mem-fraction-static": "float",
    }
    assert [name for name, flag in flags.items() if flag.negated] == ["lora-strict"]


def test_options_of_trtllm_are_read_by_section() -> None:
    assert kinds(read_flags("trtllm", {"llmapi/llm_args.py": LLM_ARGS})) == {
        "print_iter_log": "bool",
        "tensor_parallel_size": "int",
        "dtype": "str",
        "kv_cache_config": "section",
        "kv_cache_config.enable_block_reuse": "bool",
        "kv_cache_config.tokens_per_block": "int",
        "speculative_config": "section",
        "speculative_config.decoding_type": "str",
        "speculative_config.num_nextn_predict_layers": "int",
        "kind": "any",
        "kinds": "any",
    }


def test_a_source_is_a_wheel_an_archive_a_folder_or_a_file(tmp_path: Path) -> None:
    texts = {**VLLM, "worker/other.py": "raise SystemExit"}
    for name, text in texts.items():
        (tmp_path / "site/vllm" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site/vllm" / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "vllm-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(f"vllm/{name}", text)
    with tarfile.open(tmp_path / "vllm-1.0.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"vllm-1.0/vllm/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    (tmp_path / "llm_args.py").write_text(LLM_ARGS)

    for source in ("vllm-1.0-py3-none-any.whl", "vllm-1.0.tar.gz", "site", "site/vllm"):
        assert source_texts("vllm", tmp_path / source) == VLLM, source
    assert source_texts("trtllm", tmp_path / "llm_args.py") == {"llm_args.py": LLM_ARGS}
    with pytest.raises(FileNotFoundError, match="no source of sglang's flags"):
        source_texts("sglang", tmp_path / "site")


SMALL = """# Made by hand.
versions: ["1.0"]
elsewhere: [is-prefill-worker]
negatable:
  [enable-eplb]
facts:
  tensor-parallel-size: {fact: tp, type: size, aliases: [tp]}
  is-prefill-worker: {fact: prefill_worker, type: bool}
known:
  bool:
    [eager, enable-eplb, old]
  int:
    [seed]
renamed:
  old: eager
"""


def seen(*flags: Seen) -> dict[str, Seen]:
    fixed = (Seen("tensor-parallel-size", "int"), Seen("tp", "int"))
    return {flag.name: flag for flag in (*fixed, *flags)}


def test_a_newer_version_changes_what_it_must() -> None:
    found = read_table(SMALL)
    newer = seen(
        Seen("eager", "bool", negated=True),
        Seen("enable-eplb", "bool", negated=True),
        Seen("seed", "str"),
        Seen("x", "int"),
    )

    assert update(found, "2.0", newer) == [
        "negatable: eager",
        "no longer int: seed",
        "new: x",
        "gone: old",
    ]
    assert (found.versions, found.gone, found.new) == (["1.0", "2.0"], {"2.0": ["old"]}, {"1.0": ["x"]})
    assert (found.known["any"], found.switches) == (["seed"], {"1.0": ["eager"]})
    assert update(found, "3.0", newer | seen(Seen("old", "bool"))) == ["there again: old"]
    assert found.gone == {"2.0": []}
    with pytest.raises(ValueError, match=r"3\.0 is not newer than 3\.0"):
        update(found, "3.0", newer)


def test_the_command_rewrites_the_table_and_leaves_what_people_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, source = tmp_path / "vllm.yaml", tmp_path / "arg_utils.py"
    file.write_text(SMALL)
    source.write_text(
        'p.add_argument("--tensor-parallel-size", "--tp", type=int)\n'
        'p.add_argument("--eager", action="store_true")\n'
        'p.add_argument("--enable-eplb", action=argparse.BooleanOptionalAction)\n'
        'p.add_argument("--seed", type=int)\np.add_argument("--novel", type=str)\n'
    )

    assert main(["vllm", f"2.0={source}", "--table", str(file)]) == 0
    assert capsys.readouterr().out == "2.0: new: novel\n2.0: gone: old\n"
    assert file.read_text() == SMALL.replace('["1.0"]', '["1.0", "2.0"]').replace(
        "renamed:", 'gone:\n  "2.0":\n    [old]\nnew:\n  "1.0":\n    [novel]\nrenamed:'
    ).replace("    [seed]\n", "    [seed]\n  str:\n    [novel]\n")


@pytest.mark.parametrize("told", ["2.0=nowhere", "0.5=arg_utils.py", "arg_utils.py"])
def test_what_cannot_be_read_changes_nothing(tmp_path: Path, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text(SMALL)
    (tmp_path / "arg_utils.py").write_text(ARG_UTILS)

    with pytest.raises(SystemExit, match="2"):
        main(["vllm", re.sub(r"(=|^)(?=arg)", rf"\1{tmp_path}/", told), "--table", str(file)])
    assert "error:" in capsys.readouterr().err
    assert file.read_text() == SMALL


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_tables_are_as_the_command_writes_them(engine: str) -> None:
    text = (FOLDER / f"{engine}.yaml").read_text()

    assert write_table(text, read_table(text)) == text


SOURCES = os.environ.get("DYNAMOC_ENGINE_SOURCES")
"""A folder with wheels and source archives of engines as PyPI names them."""


@pytest.mark.skipif(SOURCES is None, reason="DYNAMOC_ENGINE_SOURCES names no folder of wheels")
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_tables_agree_with_every_source_they_were_read_from(engine: str) -> None:
    found, checked = table(engine), 0
    for version in read_table((FOLDER / f"{engine}.yaml").read_text()).versions:
        for path in Path(str(SOURCES)).glob(f"{engine}-{version}[-.]*"):
            if path.name.startswith((f"{engine}-{version}-", f"{engine}-{version}.tar")):
                checked += 1
                runs = version_of(version) or ()
                for name, flag in read_flags(engine, source_texts(engine, path)).items():
                    known = found.flags[fold(name)]
                    assert not found.lacks(name, version), (version, name)
                    if flag.type == "bool" and known.type == "bool":
                        switch = known.negatable and runs <= (version_of(known.switch) or ())
                        assert flag.negated is (known.negatable and not switch), (version, name)

    assert checked > 0
