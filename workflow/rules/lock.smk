# Snakemake's lock outlives a killed run (kill -9, power cut). This one doesn't: whoever gets it alone knows that no other
# run of this workflow is alive in the working directory, and removes what a dead one left, so that the same command goes on.
import base64
import fcntl
import socket
from contextlib import suppress


def hold_working_directory():
    """Share a lock until this process ends; who could have it alone first clears Snakemake's."""
    path = Path(".snakemake/virnucpro.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(OSError):  # a living run shares it, or locks don't work here: Snakemake's own lock decides
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host, last = socket.gethostname(), os.read(descriptor, 1000).decode(errors="replace").strip()
        if last in ("", host):  # else locks may not reach from that host to this one
            os.pwrite(descriptor, f"{host:<100}\n".encode(), 0)
            for file in Path(".snakemake/locks").glob("*.lock"):
                file.unlink(missing_ok=True)
            forget_interruption_of_finished()
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def forget_interruption_of_finished():
    """Keep the vectors that a job finished and Snakemake didn't get to know of.

    They appear by rename, so they are whole, and their path says what they are. (Not so the tables: these keep their
    path when a parameter changes.)
    """
    folder = Path(".snakemake/incomplete")
    for marker in [path for path in folder.rglob("*") if path.is_file()]:
        with suppress(ValueError):  # not a name of this kind
            name = "".join(part.removeprefix("@") for part in marker.relative_to(folder).parts)
            output = Path(base64.b64decode(name, altchars=b"-_", validate=True).decode())
            if output.match("embeddings/*/*/*.h5") and output.exists():
                marker.unlink(missing_ok=True)


if workflow.is_main_process:
    hold_working_directory()
