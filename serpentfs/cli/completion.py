"""``completion``: scripts for bash, zsh and fish, made from what the commands' parsers take.

A script is static but for the names of remotes, for which it runs ``serpentfs remote list``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.reference import Option, Page, pages

SHELLS = ("bash", "zsh", "fish")
_FOLDERS = ("DIR", "DIR|REMOTE")
_FILES = ("FILE", "FOLDER", "LOCAL", "PATH")


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=completion)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def completion(arguments: argparse.Namespace) -> ExitCode:
    print(script_for(arguments.shell), end="")
    return ExitCode.OK


def script_for(shell: str) -> str:
    """The script for one of ``SHELLS``."""
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    return "\n".join(make(pages())) + "\n"


def _kind(metavar: str) -> str:
    """What to offer for a value: "folders", "files", "remotes", or "" for nothing."""
    bare = metavar.strip("[].")
    if bare in _FOLDERS:
        return "folders"
    if "REMOTE" in bare:
        return "remotes"
    return "files" if any(word in bare.replace("|", "-").split("-") for word in _FILES) else ""


def _kinds(page: Page) -> list[str]:
    return list(dict.fromkeys(kind for argument in page.arguments if (kind := _kind(argument.name))))


def _groups(found: Iterable[Page]) -> dict[str, list[Page]]:
    """Commands of two words by their first."""
    groups: dict[str, list[Page]] = {}
    for page in found:
        first, _, second = page.command.name.partition(" ")
        if second:
            groups.setdefault(first, []).append(page)
    return groups


def _first_words(found: Iterable[Page]) -> list[str]:
    return list(dict.fromkeys(page.command.name.split()[0] for page in found))


# bash

_BASH_HEAD = """\
# bash completion of serpentfs, by "serpentfs completion bash"

_serpentfs_remotes() {
    serpentfs remote list 2>/dev/null | sed 's/:.*/:/'
}

_serpentfs_words() {
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}

_serpentfs_files() {
    local word
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen "$1" -- "$cur")
}

_serpentfs() {
    local cur prev command options="" values=""
    COMPREPLY=()
    cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    # A remote's name ends in a colon, which is a word of its own for bash.
    if [[ $cur == : ]]; then return; fi
    command=${COMP_WORDS[1]}"""

_BASH_TAIL = """\
    if [[ $cur == -* ]]; then _serpentfs_words "$options"; return; fi
    case " $values " in *" folders "*) _serpentfs_files -d ;; esac
    case " $values " in *" files "*) _serpentfs_files -f ;; esac
    case " $values " in
        *" remotes "*)
            compopt -o nospace 2>/dev/null
            _serpentfs_words "$(_serpentfs_remotes)" ;;
    esac
}

complete -F _serpentfs serpentfs"""


def _bash(found: list[Page]) -> Iterator[str]:
    groups = _groups(found)
    yield _BASH_HEAD
    yield f"    if (( COMP_CWORD == 1 )); then _serpentfs_words '{' '.join(_first_words(found))}'; return; fi"
    yield "    case $command in"
    for group, members in groups.items():
        words = " ".join(page.command.name.split()[1] for page in members)
        yield f"        {group})"
        yield f"            if (( COMP_CWORD == 2 )); then _serpentfs_words '{words}'; return; fi"
        yield '            command="$command ${COMP_WORDS[2]}" ;;'
    yield "    esac"
    yield "    case $command in"
    for page in found:
        yield f"        '{page.command.name}')"
        yield f"            options='{' '.join(name for option in page.options for name in option.names)}'"
        if kinds := _kinds(page):
            yield f"            values='{' '.join(kinds)}'"
        cases = list(_bash_values(page.options))
        if cases:
            yield "            case $prev in"
            yield from cases
            yield "            esac"
        yield "            ;;"
    yield "    esac"
    yield _BASH_TAIL


def _bash_values(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        if option.takes and not option.takes.startswith("["):
            action = "" if not option.choices else f"_serpentfs_words '{' '.join(option.choices)}'; "
            if kind := _kind(option.takes):
                action = f"_serpentfs_files {'-d' if kind == 'folders' else '-f'}; "
            yield f"                {'|'.join(option.names)}) {action}return ;;"


# zsh

_ZSH_HEAD = """\
#compdef serpentfs
# zsh completion of serpentfs, by "serpentfs completion zsh"

_serpentfs_remotes() {
    local -a names
    names=(${(f)"$(serpentfs remote list 2>/dev/null)"})
    compadd -S '' -- ${names%%:*}:
}

_serpentfs() {
    local context state line
    typeset -A opt_args"""


def _zsh(found: list[Page]) -> Iterator[str]:
    groups = _groups(found)
    yield _ZSH_HEAD
    yield "    if (( CURRENT == 2 )); then"
    yield "        local -a commands=("
    for word in _first_words(found):
        summary = next((page.command.summary for page in found if page.command.name == word), "See --help.")
        yield f"            {_quoted(_zsh_text(word) + ':' + summary)}"
    yield "        )"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield "    local command=${words[2]}"
    yield "    case $command in"
    for group, members in groups.items():
        yield f"        {group})"
        yield "            if (( CURRENT == 3 )); then"
        entries = " ".join(_quoted(f"{page.command.name.split()[1]}:{page.command.summary}") for page in members)
        yield f"                local -a commands=({entries})"
        yield "                _describe command commands"
        yield "                return"
        yield "            fi"
        yield '            command="$command ${words[3]}"; shift 2 words; (( CURRENT -= 2 )) ;;'
    yield "        *) shift words; (( CURRENT -= 1 )) ;;"
    yield "    esac"
    yield "    case $command in"
    for page in found:
        yield f"        {_quoted(page.command.name)})"
        yield "            _arguments -s \\"
        for option in page.options:
            for name in option.names:
                yield f"                {_quoted(_zsh_option(name, option))} \\"
        for argument in page.arguments:
            many = "*" if argument.usage.endswith(("...", "...]")) else ""
            spec = f"{many}:{_zsh_text(argument.name.lower())}:{_ZSH_ACTIONS[_kind(argument.name)]}"
            yield f"                {_quoted(spec)} \\"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield ""
    yield '_serpentfs "$@"'


_ZSH_ACTIONS = {"folders": "_files -/", "files": "_files", "remotes": "_serpentfs_remotes", "": " "}


def _zsh_option(name: str, option: Option) -> str:
    text = f"{name}[{_zsh_text(option.help)}]"
    if not option.takes:
        return text
    colon = "::" if option.takes.startswith("[") else ":"
    action = f"({' '.join(option.choices)})" if option.choices else _ZSH_ACTIONS[_kind(option.takes)]
    return f"{text}{colon}{_zsh_text(option.takes)}:{action}"


def _zsh_text(text: str) -> str:
    for char in ("\\", "[", "]", ":"):
        text = text.replace(char, "\\" + char)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish

_FISH_HEAD = """\
# fish completion of serpentfs, by "serpentfs completion fish"

function __serpentfs_remotes
    serpentfs remote list 2>/dev/null | string replace -r ':.*' ':'
end

function __serpentfs_is
    set -l words (commandline -opc)
    set -l last (math 1 + (count $argv))
    test "$words[2..$last]" = "$argv"
end

complete -c serpentfs -f"""


def _fish(found: list[Page]) -> Iterator[str]:
    yield _FISH_HEAD
    groups = _groups(found)
    for word in _first_words(found):
        summary = next((page.command.summary for page in found if page.command.name == word), "See --help.")
        yield f"complete -c serpentfs -n 'test (count (commandline -opc)) = 1' -a {word} -d {_fish_quoted(summary)}"
    for group, members in groups.items():
        for page in members:
            second = page.command.name.split()[1]
            yield (
                f"complete -c serpentfs -n '__serpentfs_is {group}; and test (count (commandline -opc)) = 2' "
                f"-a {second} -d {_fish_quoted(page.command.summary)}"
            )
    for page in found:
        when = f"complete -c serpentfs -n '__serpentfs_is {page.command.name}'"
        for kind in _kinds(page):
            yield f"{when} {_FISH_ACTIONS[kind]}"
        for option in page.options:
            yield f"{when} {_fish_option(option)}"


_FISH_ACTIONS = {
    "folders": "-a '(__fish_complete_directories)'", "files": "-F", "remotes": "-a '(__serpentfs_remotes)'",
}


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = ""
    if option.takes:
        value = " -x" if option.choices or not _kind(option.takes) else " -r"
        if option.choices:
            value += f" -a {_fish_quoted(' '.join(option.choices))}"
        elif kind := _kind(option.takes):
            value += f" {_FISH_ACTIONS[kind]}"
    return f"{names}{value} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
