"""``qseq``: finds the command, runs it and turns errors into exit statuses.

0 the work is done, 1 the work failed, 2 the request was wrong. Errors are one line on stderr; ``QSEQ_DEBUG=1`` adds
the traceback. Commands import what they need when they run, so ``--help`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from qseq import __version__
from qseq.cli._common import OVERRIDE, Parser
from qseq.errors import QseqError, RequestError

COMMANDS = (
    "collect",
    "convert",
    "inspect",
    "train",
    "improve",
    "evaluate",
    "generate",
    "report",
    "serve",
    "export",
    "share",
)
CONFIGURED = ("train", "improve")
DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def build_parser() -> Parser:
    parser = Parser(prog="qseq", description="Learn from logged experience with value functions over sequences.")
    parser.add_argument("--version", action="version", version=f"qseq {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        module = importlib.import_module(f"qseq.cli.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, command_parser=command, overrides=[])
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses; for some commands, ``key=value`` words may stand anywhere (argparse alone wants them in one place)."""
    args, rest = build_parser().parse_known_args(argv)
    if args.command in CONFIGURED:
        args.overrides = [match.group(1) for match in map(OVERRIDE.match, rest) if match]
        rest = [word for word in rest if not OVERRIDE.match(word)]
    if rest:
        args.command_parser.error(f"unknown argument: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    try:
        args = parse(argv)
    except SystemExit as leaving:  # argparse exits for --help, --version and wrong usage
        return leaving.code if isinstance(leaving.code, int) else WRONG
    try:
        args.run(args)
    except BrokenPipeError:  # the reader went away (`qseq inspect ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return report_failure(args.command, "interrupted; what was finished is kept", INTERRUPTED)
    except RequestError as error:
        return report_failure(args.command, str(error), WRONG)
    except QseqError as error:
        return report_failure(args.command, str(error), FAILED)
    except OSError as error:
        return report_failure(args.command, *explain_os_error(error))
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error} (QSEQ_DEBUG=1 shows where)"
        return report_failure(args.command, message, FAILED)
    return DONE


def explain_os_error(error: OSError) -> tuple[str, int]:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space left on the disk; free some space and run the command again", WRONG
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)):
        return f"{where}{(error.strerror or str(error)).lower()}; check the path", WRONG
    return f"{where}{error.strerror or error}", FAILED


def report_failure(command: str, message: str, status: int) -> int:
    if os.environ.get("QSEQ_DEBUG") == "1":
        traceback.print_exc()
    one_line = " ".join(message.split())
    who = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"qseq {command}{who}: {one_line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
