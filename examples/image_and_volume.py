"""A job on files of the host: Python from an image, input and result in a volume.

The argument is an image with python3: ballonet image build-debian --tag python --include python3
"""

import sys
import tempfile
from pathlib import Path

from ballonet.sync import Sandbox

JOB = """
import platform, statistics
numbers = [int(line) for line in open("/job/numbers.txt")]
with open("/job/result.txt", "w") as result:
    version = platform.python_version_tuple()
    system = platform.freedesktop_os_release()["NAME"]
    result.write(f"mean {statistics.mean(numbers)}, by Python {version[0]}.{version[1]} on {system}")
"""


def main(image: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        job = Path(directory)
        (job / "numbers.txt").write_text("\n".join(map(str, range(10))))
        with Sandbox.create("example-job", image=image, memory="256M", volumes=[f"{job}:/job"]) as box:
            done = box.exec(["python3", "-c", JOB])
            assert done.returncode == 0, done.stderr.decode()
        left = sorted(path.name for path in job.iterdir())
        print(f"{(job / 'result.txt').read_text()}; files on the host: {left}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "python")
