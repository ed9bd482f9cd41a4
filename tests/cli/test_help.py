"""Every command explains itself."""

import pytest

COMMANDS = ("plan", "run", "why", "ls", "show", "lineage", "verify", "gc", "audit", "report", "size")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_json(k15, capsys, command):
    with pytest.raises(SystemExit) as ended:
        k15(command, "--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in text and f"k15 {command}" in text and "--json" in text


def test_help_lists_the_commands(k15, capsys):
    with pytest.raises(SystemExit):
        k15("--help")
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_a_wrong_option_is_bad_input(k15):
    with pytest.raises(SystemExit) as ended:
        k15("plan", "--nonsense")
    assert ended.value.code == 2
