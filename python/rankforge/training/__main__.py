"""python -m rankforge.training"""

import sys

from rankforge.training._errors import TrainingError, require_packages


def main() -> int:
    try:
        require_packages()
        # PyTorch takes seconds to import, and may be absent.
        from rankforge.training._commands import run

        return run(sys.argv[1:])
    except TrainingError as error:
        print(f"rankforge.training: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rankforge.training: stopped; the same command with --resume "
              "goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
