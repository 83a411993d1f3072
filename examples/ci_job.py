"""A CI job that needs much memory for a short time: the host gets it back while the sandbox keeps running."""

from ballonet.sync import Balloon, Sandbox

BUILD = "dd if=/dev/zero of=/dev/null bs=500M count=1 2>/dev/null"  # uses 500 MiB for a moment


def main() -> None:
    with Sandbox.create("example-ci", memory="1G", balloon=Balloon(min="256M")) as sandbox:
        before = sandbox.metrics().host.guest_ram_mib
        assert sandbox.shell(BUILD).returncode == 0
        sandbox.balloon.set("256M", wait=True)
        after = sandbox.metrics().host.guest_ram_mib
        reply = sandbox.balloon.set("1G", wait=True)  # ready for the next job
        print(f"guest RAM on the host: {before} MiB before the job, {after} MiB after it and a shrink")
        print(f"the next job has {reply.actual_mib} MiB again")


if __name__ == "__main__":
    main()
