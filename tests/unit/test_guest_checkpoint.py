"""What of a checkpoint travels to another machine; a real move is tested end to end."""

import io
import tarfile

from harness.guest.checkpoint import travelling
from harness.guest.engine import tar_of


def test_images_output_and_salt_travel_and_nothing_else() -> None:
    names = [
        "images/core-35.img",
        "images/dump-1.log",
        "output",
        "salt",
        "exits",
        "cores/core.7",
        "control-keys",
    ]
    archive = tar_of({f"criu-pac/{name}": name.encode() for name in names})
    with tarfile.open(fileobj=io.BytesIO(travelling(archive))) as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
        contents = {name: stream.read() if stream else b"" for name, stream in found.items()}
    assert contents == {f"criu-pac/{name}": name.encode() for name in names[:4]}
