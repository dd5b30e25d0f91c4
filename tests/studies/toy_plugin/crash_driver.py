"""Run the toy study as a command of its own, so that tests can kill it."""

import argparse
import resource
import signal
import sys
from pathlib import Path

import crash_toy

from evidentia.studies.harness.declare.overrides import apply_overrides
from evidentia.studies.harness.engine.run import run_study
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.terminal.progress import PlainReporter


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--workers")
    parser.add_argument("--shard")
    parser.add_argument("--file-limit", type=int)
    options = parser.parse_args()
    if options.file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    try:
        config = apply_overrides(crash_toy.Config(), options.set)
        ended = run_study(
            crash_toy.study(config),
            out=options.out,
            resume=options.resume,
            restart=options.restart,
            workers=options.workers,
            shard=options.shard,
            reporter=PlainReporter(sys.stdout),
            command=["evidentia", "run", "crash-toy"],
        )
    except StudyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return ended.exit_code


if __name__ == "__main__":
    sys.exit(main())
