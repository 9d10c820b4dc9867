"""What a shell completes, asked of a real bash."""

import shutil
import subprocess

import pytest

from hyperexport.cli.arguments import parse
from hyperexport.errors import UsageError


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("hyperexport sched", "schedules"),
        ("hyperexport --snapshot --delete-s", "--delete-snapshot"),
        ("hyperexport verify --de", "--deep --debug"),
    ],
)
def test_bash_completes_commands_and_flags(words, completed, capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed, so nothing completes")
    assert parse(["completion", "bash"]) is None
    script = capsys.readouterr().out
    ask = f'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _hyperexport; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run([bash, "-c", f"{script}\n{ask}"], capture_output=True, text=True)
    assert done.stdout.split() == completed.split(), done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell, capsys):
    assert parse(["completion", shell]) is None
    assert "reap-snapshots" in capsys.readouterr().out


def test_an_unknown_shell_is_refused():
    with pytest.raises(UsageError, match="tcsh"):
        parse(["completion", "tcsh"])
