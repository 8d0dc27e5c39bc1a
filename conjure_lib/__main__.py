"""``python -m conjure_lib``, which is the program ``conjure``: what it does is in conjure_tools."""

from conjure_tools.cli import entry

if __name__ == "__main__":
    entry()
