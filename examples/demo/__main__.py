"""Makes `python -m examples.demo` run the demo."""

import sys

from streams.interrupts import quiet_imports

if __name__ == "__main__":
    with quiet_imports():
        from examples.demo.run import main
    sys.exit(main())
