# Snakemake's lock outlives a killed run (kill -9, power cut). This one doesn't: whoever gets it alone knows that no other
# run of this workflow is alive in the working directory, and removes what a dead one left, so that the same command goes on.
import fcntl
import socket
from contextlib import suppress
from tempfile import TemporaryFile


def hold_working_directory():
    """Share a lock until this process ends; who could have it alone first clears Snakemake's."""
    path = Path(".snakemake/virnucpro.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"{path.absolute()} can't be written ({error.strerror}): a run keeps its own records in the folder that it "
            "starts in. Mend that, or name another folder with --directory."
        ) from None
    with suppress(OSError):  # a living run shares it, or locks don't work here: Snakemake's own lock decides
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host, last = socket.gethostname(), os.read(descriptor, 1000).decode(errors="replace").strip()
        if last in ("", host):  # else locks may not reach from that host to this one
            os.pwrite(descriptor, f"{host:<100}\n".encode(), 0)
            for file in Path(".snakemake/locks").glob("*.lock"):
                file.unlink(missing_ok=True)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def require_output_dir():
    """Before the first job: the output folder can be written to, holds nobody else's files, and its clock is right.

    Not while the workflow is parsed, for a finished run can be read-only.
    """
    try:
        Path(OUT).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=OUT) as probe:
            clock = os.fstat(probe.fileno()).st_mtime
    except OSError as error:
        raise UserError(
            f"output_dir: {Path(OUT).absolute()} can't be written to ({error.strerror}). Name another folder."
        ) from None
    with user_errors():
        refuse_foreign(OUT, SAMPLES, TO_BE_MADE)
        check_clock(OUT, clock, [*(path for files in SAMPLES.values() for path in files), *GIVEN], time.time())


if workflow.is_main_process:
    hold_working_directory()
