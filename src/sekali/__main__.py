"""`python -m sekali`: the `sekali` command, where it is not installed as one."""

from __future__ import annotations

from sekali.cli import main

if __name__ == "__main__":
    main()
