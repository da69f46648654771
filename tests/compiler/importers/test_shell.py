"""Scripts are read as a shell reads them."""

from __future__ import annotations

import pytest

from dynamoc.compiler.importers.command_line import read_command
from dynamoc.compiler.importers.shell import read_script, with_variables


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("run --a 1 \\\n  --b 2\n", ("run", "--a", "1", "--b", "2")),
        ("one\n\n\ntwo # three\n", ("one", ";", "two")),
        ("run --tag a#b '# kept'", ("run", "--tag", "a#b", "# kept")),
        ('args=(\n  --a 1\n  # --b\n)\nargs+=(--c)\nrun "${args[@]}"', ("run", "--a", "1", "--c")),
        ("run ${unknown[@]}", ("run", "${unknown[@]}")),
        ("run 'open", ("run 'open",)),
    ],
)
def test_words(script: str, words: tuple[str, ...]) -> None:
    assert words == read_script(script).words


def test_files_that_a_script_writes() -> None:
    script = read_script("cat > /tmp/a.yaml <<'EOF'\ntp: 2 # two\n\nEOF\nrun <<< text")

    assert script.files == {"/tmp/a.yaml": "tp: 2 # two\n"}
    assert script.words == ("cat", ">", "/tmp/a.yaml", ";", "run", "<<<", "text")


def test_variables_of_the_process_and_of_the_script() -> None:
    words = ["A=1", "$A", "${B}", "${C:-d}", "$E", "X=$A$A", "$X"]

    assert with_variables(words, {"B": "b"}) == ["A=1", "1", "b", "d", "$E", "X=11", "11"]


def test_a_redirection_ends_the_flags() -> None:
    found = read_command(["sh", "-c", "python3 -m dynamo.vllm --model a/b --enforce-eager 2>&1 | tee log"], {})

    assert found.args == {"model": "a/b", "enforce-eager": True}
