"""The `sekali` command, also as `python -m sekali` where it is not installed as one."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command. Ctrl-C ends it with 130 and without a traceback, whenever it comes."""
    try:
        # Here, since it takes long enough to be interrupted.
        from sekali.cli import run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # Nothing is left to do but to end, and Python would tell of being interrupted in it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
