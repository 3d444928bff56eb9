"""`python -m inflight.builder CHECKPOINT`: prints the folder of its engine, built if need be.

For programs that want an engine and know no Python, as the Triton backend does; people have
`inflight build`.
"""

import argparse
import sys

from inflight.builder.cache import engine_dir_for


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m inflight.builder", description=__doc__)
    parser.add_argument("checkpoint", help="folder of a HuggingFace checkpoint")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--load-format", default="auto")
    for limit in ("--max-batch-size", "--max-seq-len", "--max-num-tokens"):
        parser.add_argument(limit, type=int)
    options = vars(parser.parse_args())
    try:
        print(engine_dir_for(options.pop("checkpoint"), **options))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
