"""``python -m facemargin`` is the command ``facemargin``."""

from facemargin.cli import main

if __name__ == "__main__":
    main()
