"""The surface of the command line, frozen: whoever changes it changes this file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

from latune.cli.main import _show_warning, cli, main
from latune.cli.output import write_text
from latune.errors import LatuneError

ROOT = Path(__file__).resolve().parents[2]

SURFACE = {
    "bench": ["--shape", "--preset", "--dtype", "--direction", "--decay", "--json", "--plots", "--from"],
    "cache diff": ["OLD", "NEW", "--json"],
    "cache list": ["--json"],
    "cache merge": ["SOURCE...", "--into", "--json"],
    "cache verify": ["[FILE]...", "--no-build", "--jobs", "--json"],
    "doctor": ["--shape", "--preset", "--time-budget", "--jobs", "--json"],
    "explain": [
        "SHAPE",
        "--gpu",
        "--dtype",
        "--direction",
        "--decay",
        "--initial-state",
        "--final-state",
        "--storage",
        "--json",
    ],
    "generate": [
        "--gpu",
        "--shape",
        "--direction",
        "--dtype",
        "--decay",
        "--initial-state",
        "--final-state",
        "-o/--output",
    ],
    "gpus": ["--json"],
    "landscape record": [
        "--gpu",
        "--shape",
        "--kernel",
        "--dtype",
        "--decay",
        "--space",
        "--output",
        "--time-budget",
        "--resume/--fresh",
        "--jobs",
    ],
    "landscape replay": ["FILE...", "--strategy", "--trials", "--seeds", "--json"],
    "regret": [
        "--gpu",
        "--shape",
        "--preset",
        "--dtype",
        "--direction",
        "--decay",
        "--trials",
        "--json",
        "--jobs",
    ],
    "show": ["--gpu", "--shape", "--dtype", "--direction", "--decay", "--initial-state", "--final-state", "--json"],
    "tune": [
        "--gpu",
        "--shape",
        "--preset",
        "--dtype",
        "--direction",
        "--decay",
        "--initial-state",
        "--final-state",
        "--effort",
        "--trials",
        "--time-budget",
        "--transfer",
        "--seed",
        "--storage",
        "--resume/--fresh",
        "--output",
        "--space",
        "--workers",
        "--jobs",
        "--json",
    ],
    "verify": ["--gpu", "--shape", "--jobs", "--json"],
}

DEFAULTS = {
    "bench": {"dtype": "bf16", "direction": "both", "decay": "constant"},
    "cache diff": {},
    "cache list": {},
    "cache merge": {},
    "cache verify": {},
    "doctor": {"time_budget_s": "60s"},
    "explain": {"gpu_name": "auto", "dtype": "bf16", "direction": "both", "decay": "constant"},
    "generate": {"gpu_name": "auto", "dtype": "bf16", "direction": "fwd", "decay": "constant"},
    "gpus": {},
    "landscape record": {"gpu_name": "auto", "dtype": "bf16", "decay": "constant", "resume": True},
    "landscape replay": {"seeds": 20},
    "regret": {"gpu_name": "auto", "dtype": "bf16", "direction": "both", "decay": "constant"},
    "show": {"gpu_name": "auto", "dtype": "bf16", "direction": "both", "decay": "constant"},
    "tune": {
        "gpu_name": "auto",
        "dtype": "bf16",
        "direction": "both",
        "decay": "constant",
        "effort": "default",
        "seed": 0,
        "resume": True,
        "workers": 1,
    },
    "verify": {"gpu_name": "auto"},
}


def _commands(group: click.Group = cli, prefix: str = "") -> dict[str, click.Command]:
    """By name, those of a group behind its own."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = _commands(command, f"{prefix}{name} ") if isinstance(command, click.Group) else {f"{prefix}{name}": command}
        found |= inner
    return found


def _surface(command: click.Command) -> list[str]:
    return [
        "/".join([*option.opts, *option.secondary_opts]) if isinstance(option, click.Option) else str(option.metavar)
        for option in command.params
    ]


def _defaults(command: click.Command) -> dict[str, object]:
    found = {option.name: option.get_default(click.Context(command)) for option in command.params}
    return {name: value for name, value in found.items() if isinstance(value, str | int) and value is not False}


def test_commands_and_options_are_frozen():
    assert {name: _surface(command) for name, command in sorted(_commands().items())} == SURFACE


def test_defaults_are_frozen():
    assert {name: _defaults(command) for name, command in _commands().items()} == DEFAULTS


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_command_and_option_has_help(run, name):
    command = _commands()[name]
    shown = run(*name.split(), "--help")
    assert shown.exit_code == 0 and command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.opts[-1] in shown.stdout
        else:
            assert f"{name} [OPTIONS] {SURFACE[name][0]}" in shown.stdout


def test_the_commands_are_listed_without_importing_what_they_need():
    script = "import sys; from latune.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed, _, modules = shown.rstrip().rpartition("\n")
    names = {name.split()[0] for name in SURFACE}
    assert {line.split()[0] for line in listed.partition("Commands:\n")[2].splitlines() if line.strip()} == names
    assert not {"torch", "triton", "optuna", "jinja2"} & set(modules.split())


def test_every_command_has_its_row_in_the_readme():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("`")[1].removeprefix("latune ") for line in lines if line.startswith("| `latune ")}
    assert rows == set(SURFACE)


@pytest.mark.parametrize("command", ["show", "verify", "tune", "generate"])
def test_an_unknown_gpu_is_an_error_in_one_line_with_the_known_ones(run, own_cache, command):
    result = run(command, "--gpu", "a101", "--shape", "1,2,64,64")
    assert result.exit_code == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "unknown GPU 'a101'" in result.stderr and "h200" in result.stderr and "did you mean 'a10" in result.stderr


def _ended(*command: str, **options: object) -> tuple[int, list[str]]:
    """The exit code of the console script, and the lines of its stderr."""
    done = subprocess.run([sys.executable, "-m", "latune", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)
    return done.returncode, done.stderr.splitlines()


def test_a_full_disk_is_an_error_in_one_line():
    with open("/dev/full", "w") as full:
        code, lines = _ended("--help", stdout=full)
    assert code == 1 and lines == ["Error: cannot write the output: No space left on device; make room, or send it elsewhere"]


def test_a_reader_that_has_seen_enough_is_no_error_to_speak_of():
    reader, writer = os.pipe()
    os.close(reader)
    code, lines = _ended("--help", stdout=writer)
    os.close(writer)
    assert (code, lines) == (1, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_anywhere_ends_with_130_and_a_line(monkeypatch, capsys, error):
    def interrupted(*_, **__):
        raise error

    monkeypatch.setattr(cli, "invoke", interrupted)
    monkeypatch.setattr(sys, "argv", ["latune", "gpus"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err.split() == ["interrupted"]


def test_the_console_script_ends_with_the_codes_of_its_errors():
    assert _ended("no-such-command", stdout=subprocess.DEVNULL)[0] == 2
    code, lines = _ended("cache", "verify", "--no-build", "README.md", stdout=subprocess.DEVNULL)
    assert code == 1 and "Traceback" not in "".join(lines)


def test_a_file_of_results_stays_until_all_of_its_successor_is_written(tmp_path, monkeypatch):
    path, link = tmp_path / "results.json", tmp_path / "link.json"
    write_text(path, "first")
    link.symlink_to(path)
    write_text(link, "second")
    assert link.is_symlink() and path.read_text(encoding="utf-8") == "second"

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LatuneError, match=r"cannot write .*results\.json: No space left on device"):
        write_text(path, "third")
    assert path.read_text(encoding="utf-8") == "second" and {one.name for one in tmp_path.iterdir()} == {path.name, link.name}
    write_text(Path("/dev/null"), "nowhere")


@pytest.mark.parametrize("shape", ["1,2", "1,2,x,64", "0,2,64,64", "1,2,64,320", "1,2,64,100", "1,2,64,64,64,64", ""])
def test_a_bad_shape_is_a_usage_error_with_an_example(run, shape):
    result = run("tune", "--shape", shape)
    assert result.exit_code == 2 and "such as 4,32,8192,128" in result.stderr


def test_a_head_dim_that_would_be_padded_is_told_what_to_give(run):
    assert "give 112" in run("show", "--shape", "1,2,64,100").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", "--preset", "nothing"],
        ["bench", "--preset", "nothing"],
        ["tune", "--time-budget", "soon"],
        ["tune", "--dtype", "int8"],
        ["nothing"],
    ],
)
def test_usage_errors_exit_with_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_warnings_are_one_line_on_stderr(capsys):
    _show_warning(UserWarning("latune: a miss"), UserWarning, "file.py", 1)
    _show_warning(DeprecationWarning("old"), DeprecationWarning, "file.py", 1)
    assert capsys.readouterr() == ("", "latune: a miss\nDeprecationWarning: old\n")
    assert warnings.showwarning is not _show_warning


def test_the_module_runs_as_the_command():
    command = [sys.executable, "-m", "latune", "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0 and finished.stdout.startswith("Usage: latune ")
