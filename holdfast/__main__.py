"""The command ``holdfast``, and ``python -m holdfast``, where only the interpreter's path is known."""

from holdfast.collector import paused_collector

with paused_collector():
    from holdfast.cli import main

if __name__ == "__main__":
    main(prog_name="holdfast")
