"""An agent's loop: each step is code written by a model, which runs in a sandbox and never on the host.

The steps are fixed here; a real agent would send the output of each step to a model and get the next one.
"""

from ballonet.sync import Sandbox

STEPS = [
    "echo 'three\none\ntwo' > /tmp/words; wc -l < /tmp/words",
    "sort /tmp/words | head -n 1",
    "cat /tmp/nothing",  # code written by a model sometimes fails
    "rm -rf /bin /sbin; echo 'the host is not affected'",
]


def main() -> None:
    with Sandbox.create("example-agent", memory="256M") as sandbox:
        for number, code in enumerate(STEPS, 1):
            done = sandbox.shell(code)
            output = (done.stdout + done.stderr).decode().strip()
            print(f"step {number}: status {done.returncode}: {output}")


if __name__ == "__main__":
    main()
