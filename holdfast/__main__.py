"""``python -m holdfast``: the same as the command ``holdfast``, where only the interpreter's path is known."""

from holdfast.cli import main

if __name__ == "__main__":
    main(prog_name="holdfast")
