"""``python -m tests.machines NAME``: boot an outer machine, and keep it until Ctrl-C, to try things in it."""

from __future__ import annotations

import argparse
import os
import shlex
import signal

from tests.machines.catalogue import MACHINES
from tests.machines.image import data_home
from tests.machines.outer import OuterMachine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument(
        "name", choices=sorted(name for name, machine in MACHINES.items() if machine.kind == "guest")
    )
    name = parser.parse_args().name
    os.environ["XDG_DATA_HOME"] = str(data_home())
    outer = OuterMachine(MACHINES[name])
    try:
        outer.start()
        print(f"booted in {outer.boot_s:.1f} s, ready after {outer.ready_s:.1f} s; {outer.facts()}")
        words = ["ballonet", "exec", "-it", f"machine-{name}", *MACHINES[name].enter, "bash"]
        print(f"a shell: XDG_DATA_HOME={data_home()} {shlex.join(words)}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        outer.close()


if __name__ == "__main__":
    main()
