"""An agent's loop: each step is code that the model wrote, run in a sandbox of its own and never on the host.

The steps here are fixed; a real agent would ask a model for the next one with the output of the last.
"""

from ballonet.sync import Sandbox

STEPS = [
    "echo 'three\none\ntwo' > /tmp/words; wc -l < /tmp/words",
    "sort /tmp/words | head -n 1",
    "cat /tmp/nothing",  # code that a model wrote fails now and then
    "rm -rf /bin /sbin; echo 'the host does not mind'",
]


def main() -> None:
    with Sandbox.create("example-agent", memory="256M") as sandbox:
        for number, code in enumerate(STEPS, 1):
            done = sandbox.shell(code)
            output = (done.stdout + done.stderr).decode().strip()
            print(f"step {number}: status {done.returncode}: {output}")


if __name__ == "__main__":
    main()
