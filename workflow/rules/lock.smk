# Snakemake's lock outlives a killed run (kill -9, power cut). This one doesn't: whoever can take it knows that no
# other run of this workflow is alive here, and removes what a dead one left, so that the same command goes on.
import fcntl
import socket


def take_working_directory():
    """Hold a lock until this process ends, if it is free."""
    path = Path(".snakemake/virnucpro.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # a living run holds it, or locks don't work here: Snakemake's own lock decides
    host = socket.gethostname()
    last = os.read(descriptor, 1000).decode(errors="replace").strip()
    os.pwrite(descriptor, f"{host:<100}\n".encode(), 0)
    if last not in ("", host):
        return  # locks may not reach from that host to this one
    for file in Path(".snakemake/locks").glob("*.lock"):
        if CLASSIFIER in file.read_text().splitlines():
            file.unlink(missing_ok=True)


if workflow.is_main_process:
    take_working_directory()
