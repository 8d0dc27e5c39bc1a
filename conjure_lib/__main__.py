"""``python -m conjure_lib``, which is the program ``conjure``: what it does is in conjure_tools."""

from __future__ import annotations

from typing import NoReturn


def entry() -> NoReturn:
    """Run the command line; :mod:`conjure_lib` is loaded by now, and heeds a stop by Ctrl-C."""
    from conjure_tools.cli import entry as run

    run()


if __name__ == "__main__":
    entry()
