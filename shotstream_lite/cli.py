"""The `shotstream` command. What a subcommand needs is imported when it runs, so that complaints come at once."""

import io
import os
import sys

import tyro

from shotstream_lite import __version__
from shotstream_lite.commands.benchmark import Benchmark
from shotstream_lite.commands.common import BAD_INPUT, INTERRUPTED, in_one_line, stopped_by_signals
from shotstream_lite.commands.compare import Compare
from shotstream_lite.commands.convert import Convert
from shotstream_lite.commands.evaluate import Evaluate
from shotstream_lite.commands.info import Info
from shotstream_lite.commands.serve import Serve, Studio
from shotstream_lite.commands.story import StoryCommand
from shotstream_lite.commands.tell import Tell
from shotstream_lite.commands.train import Train
from shotstream_lite.commands.train import main as train
from shotstream_lite.errors import ShotStreamError, one_line

COMMANDS = {
    "tell": Tell,
    "studio": Studio,
    "serve": Serve,
    "evaluate": Evaluate,
    "compare": Compare,
    "benchmark": Benchmark,
    "train": Train,
    "convert": Convert,
    "story": StoryCommand,
    "info": Info,
}
ABOUT = "Streaming multi-shot video generation."


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 0, 2 for bad input, 130 if it was stopped."""
    # Read when torch comes: threads that spin while they wait crawl as soon as anything else wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack the letters of a name
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_signals():
            if arguments[:1] == ["--version"]:
                print(f"shotstream {__version__}")
                return 0
            if arguments[:1] == ["train"]:
                return train(arguments[1:])
            options = {"prog": "shotstream", "description": ABOUT, "args": arguments}
            return in_one_line(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, **options)).run()
    except ShotStreamError as error:
        print(f"shotstream: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("shotstream: stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
