"""`python -m gru_xp` and the command `gru-xp`."""

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from .cli import app
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        sys.exit(f"gru-xp: the library {missing} is missing; install it: python -m pip install 'gru-xp[cli]'")
    app(prog_name="gru-xp")


if __name__ == "__main__":
    main()
