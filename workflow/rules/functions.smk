# The functions that rules ask for inputs, params and resources. None writes or computes.


def kept(path, *when):
    """An output that stays after the run if the configuration's ``keep`` is one of these, and else goes once it was used."""
    return path if SETTINGS.keep in when else temp(path)


def final_output():
    """Everything that a run makes for its samples."""
    left_out = {EMBEDDINGS} if SETTINGS.keep == "none" else set()
    left_out |= set() if SETTINGS.regions else set(REGIONS.values())
    names = [name for name in SAMPLE_FILES if name not in left_out]
    made = [f"{OUT}/{sample}/{name}" for sample in SAMPLES for name in names]
    made += [f"{OUT}/{sample}/{CONTROLS}" for sample in SAMPLES if CONTROLLED]
    return [*made, f"{OUT}/{REPORT}"] if len(SAMPLES) > 1 else made


def current(paths):
    """Files as inputs of a rule, but those dated in the future: a param, their ``identity``, tells when they change."""
    return without_future(paths, time.time())


def unit_of(wildcards):
    """The unit that a sample is split in."""
    if wildcards.sample not in UNIT_OF:
        raise UserError(f"{OUT}/{wildcards.sample}: there is no sample '{wildcards.sample}'.")
    return UNIT_OF[wildcards.sample]


def samples_of(wildcards):
    """The samples of a job: a unit's, or the one."""
    if not hasattr(wildcards, "unit"):
        unit_of(wildcards)
        return [wildcards.sample]
    if wildcards.unit not in ALL_UNITS:
        raise UserError(f"{OUT}/{wildcards.unit}/shards: no sample is split there.")
    return ALL_UNITS[wildcards.unit]


def fastas_of(wildcards):
    """Param function: sample → its FASTA files, as text."""
    return {sample: [str(path) for path in FASTAS[sample]] for sample in samples_of(wildcards)}


def fasta_of(wildcards):
    """Input function: the FASTA files of a job's samples; one that isn't there is an error, unless another workflow makes it."""
    samples = samples_of(wildcards)
    for path in [path for sample in samples for path in SAMPLES.get(sample, ())] if MAIN else ():
        with user_errors():
            check_file(path, LABELLED or SETTINGS.samples)
    return current(path for sample in samples for path in FASTAS[sample])


def identity_of(paths):
    """Param function: which files these are; those that aren't there yet are left out."""
    paths = list(paths)
    return lambda wildcards: identity(path for path in paths if os.path.exists(path))


def identity_of_fasta(wildcards):
    """Param function: the same of a job's FASTA files, without those that the workflow makes, which Snakemake knows (in a module, all may be)."""
    given = [sample for sample in samples_of(wildcards) if MAIN and sample not in SHUFFLED]
    return identity(filter(os.path.exists, (path for sample in given for path in FASTAS[sample])))


def checked_for_controls(wildcards):
    """The samples that must be known to share no id with the user's controls, before vectors are made for a sample or controls."""
    name = getattr(wildcards, "sample", None)
    if not SETTINGS.control_fasta or name in SHUFFLED:
        return []
    return SAMPLES if name == GIVEN_CONTROLS else [name] if name else []


def controls_of(wildcards):
    """Input function: tables of a sample's controls, by the arguments of ``results.make_results``."""
    sets = {"shuffled": f"{CONTROL_SETS}/{wildcards.sample}", "given": GIVEN_CONTROLS}
    return {name: f"{OUT}/{controls}/contigs.tsv" for name, controls in sets.items() if controls in CONTROLLED}


def shards_of(unit):
    """The shards of a unit, once it is split: (folder, name, frames) of each."""
    folder = checkpoints.split.get(unit=unit).output[0]
    try:
        manifest = read_manifest(folder)
    except VirNucProError as error:
        raise purged(error, folder) from None
    return [
        (str(shard_folder(Path(folder), kind)), shard["sha"], shard["frames"])
        for kind in EMBEDDED
        for shard in shards_of_kind(manifest, kind)
    ]


def shards_of_sample(sample):
    """Those that hold a sample's frames; none if it was refused."""
    folder = checkpoints.split.get(unit=UNIT_OF[sample]).output[0]
    try:
        manifest = read_sample(folder, sample)
    except InputError:  # `merge` says it
        return []
    except VirNucProError as error:
        raise purged(error, folder) from None
    PROGRESS.bases[sample] = manifest["bases"]
    return [
        (str(shard_folder(Path(folder), kind)), piece["sha"], piece["of"])
        for kind in EMBEDDED
        for piece in manifest["pieces"][kind]
    ]


def purged(said, where):
    """The error where a shard folder is damaged, with all that are: some scratch file systems remove old files one by one."""

    def lacks_something(folder):
        try:
            manifest = read_manifest(folder)
        except VirNucProError:
            return True
        texts = (
            shard_folder(Path(folder), kind) / f"{shard['sha']}.{role.suffix}"
            for kind in KINDS
            for shard in shards_of_kind(manifest, kind)
            for role in ROLES.values()
        )
        return not all(map(os.path.exists, texts))

    folders = [folder for unit in ALL_UNITS if os.path.isdir(folder := f"{OUT}/{unit}/shards")]
    damaged = [folder for folder in folders if folder == where or lacks_something(folder)]
    remedy = shlex.join(["rm", "-r", *damaged])
    return UserError(f"{said} Vectors that are left are used again. Give this, then the same command again:\n{remedy}")


PROGRESS = RunProgress(lambda line: print(line, file=sys.stderr, flush=True))
FOLDER_OF_SHARD = {}  # filled by `vectors_of`; a cluster's job looks


def text_of(role):
    """Input function: the FASTA of a shard in an encoder's letters, of whichever unit has that shard."""

    def file(wildcards):
        folders = [shard_folder(Path(OUT, unit, "shards"), kind) for unit in ALL_UNITS for kind in KINDS]
        folders = [FOLDER_OF_SHARD.get(wildcards.shard, folders[0]), *folders]
        paths = [f"{folder}/{wildcards.shard}.{ROLES[role].suffix}" for folder in folders]
        return next(filter(os.path.exists, paths), paths[0])  # where it is gone, the vectors may be there

    return file


def vectors_of(role):
    """Input function: shard vectors of one encoder, of a sample or, without one, of all; once models fit together.

    With training data there need not be a classifier that fits.
    """

    def files(wildcards):
        for each in ROLES:
            checkpoints.prepare_encoder.get(kind=SOURCES[each].kind, identifier=SOURCES[each].identifier)
        if not SETTINGS.training_data:
            checkpoints.prepare_classifier.get()
        for sample in checked_for_controls(wildcards):
            checkpoints.make_controls.get(sample=sample)
        try:
            spec = read_spec(MODELS[role])
        except VirNucProError as error:
            raise UserError(f"{error} Then give: rm -r {shlex.quote(PREPARED[role])}") from None
        key = f"{SOURCES[role].kind}/{embedding_key(spec, SETTINGS.precision, SETTINGS.batching, SETTINGS.vectors)}"
        vectors = []
        for unit in [unit_of(wildcards)] if hasattr(wildcards, "sample") else UNITS:
            shards = shards_of_sample(wildcards.sample) if hasattr(wildcards, "sample") else shards_of(unit)
            for folder, shard, frames in shards:
                FOLDER_OF_SHARD.setdefault(shard, folder)
                # Version 0.1 kept them with the sample.
                places = [f"{place}/embeddings/{key}/{shard}.h5" for place in (OUT, f"{OUT}/{unit}")]
                vectors.append(next(filter(os.path.exists, places), places[0]))
                log = f"{OUT}/logs/embed_{key}/{shard}.log"
                PROGRESS.expect(
                    vectors[-1], log, frames, frames * SOURCES[role].megabytes * ROLES[role].tokens_per_frame
                )
                text = f"{folder}/{shard}.{ROLES[role].suffix}"
                if not os.path.exists(text) and not os.path.exists(vectors[-1]):
                    raise purged(f"{text} is missing, and so are its vectors.", f"{OUT}/{unit}/shards")
        return list(dict.fromkeys(vectors))

    return files


def gpus_per_job():
    """GPUs that an embedding job asks for. ``--resources gpu=0`` makes it 0, and the job compute on the CPU."""
    return 0 if SETTINGS.device == "cpu" else 1


def cores_here():
    """Cores that jobs of this run share; None where a cluster gives each its own."""
    try:
        return workflow.cores
    except WorkflowError:
        return None


@cache
def gpus_here():
    """GPUs that embedding jobs of this run share; None where a cluster gives each its own."""
    if not cores_here():
        return None
    limit = workflow.global_resources.get("gpu")
    with user_errors():
        return gpus_to_use(SETTINGS.device, getattr(limit, "value", limit))  # a number itself with Snakemake 9.0


def threads_for_input(wildcards, input):
    """More of them for a large sample, whose first and last step would be waited for; the files of small ones take one."""
    if len(samples_of(wildcards)) > 1:
        return 1
    fasta = [input.fasta] if isinstance(input.fasta, str) else input.fasta
    return planning.threads_for_input(sum(map(os.path.getsize, filter(os.path.isfile, fasta))) / 1e6, cores_here())


def threads_per_embedding(wildcards):
    """The other cores divided by GPUs, so that embedding jobs run side by side; a fixed number on a cluster."""
    return planning.threads_per_embedding(cores_here(), gpus_here() or 0)


def role_of(wildcards):
    """The role of the model that a job fetches or prepares."""
    wanted = (wildcards.kind, wildcards.identifier)
    return next(role for role, source in SOURCES.items() if (source.kind, source.identifier) == wanted)


def models_needed():
    """The models of this run: the target `train` alone makes its classifier and takes none."""
    training = {job.rule.name for job in workflow.dag.targetjobs} == {"train"}
    return [source for role, source in SOURCES.items() if role in ROLES or not training]


def how_to_find(wildcards):
    """Param function: the arguments of ``models.sources.find``."""
    role = role_of(wildcards)
    return {"role": role, "name": SOURCES[role].name, "models_dir": str(SOURCES[role].path.parent)}


def identity_of_model(role):
    """Which files a checkpoint of the user's is; a published one has a record of its digests."""
    return identity(() if SOURCES[role].published else SOURCES[role].files)


def preparing_memory(role):
    """Memory request."""
    return planning.preparing_memory(SOURCES[role].megabytes)


def embedding_memory(role):
    """Memory request; more at each attempt."""

    def mem_mb(wildcards, attempt):
        size, vectors = SOURCES[role].megabytes, ROLES[role].bytes_per_frame
        return attempt * planning.embedding_memory(size, SETTINGS.shard_frames, vectors, gpu=gpus_per_job() > 0)

    return mem_mb


def embedding_minutes(role):
    """Time request in minutes; more at each attempt."""

    def runtime(wildcards, attempt):
        size = SOURCES[role].megabytes
        return attempt * planning.embedding_minutes(size, SETTINGS.shard_frames, gpu=gpus_per_job() > 0)

    return runtime


def table_or_error(key):
    """Input function: the table that a configuration key names; an error where the key isn't set."""

    def file(wildcards):
        if getattr(SETTINGS, key) is None:
            raise UserError(
                f"This target needs the configuration key '{key}': --config {key}=TABLE. See docs/training.md."
            )
        return current([getattr(SETTINGS, key)])

    return file


def not_the_calibrated_one(wildcards):
    """Input function: an error, as the classifier is what the target `calibrate` would make."""
    raise UserError(
        f"classifier: {CALIBRATED} is what this target makes. Name the classifier that it was made from, or another output_dir."
    )


def require_writable(folder, name, remedy):
    """Make a folder; returns what its file system's clock says. A UserError, if it can't be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError as error:
        raise UserError(f"{name}: {Path(folder).absolute()} can't be written to ({error.strerror}). {remedy}") from None


def before_the_first_job():
    """The output folder can be written to, holds nobody else's files, and its clock is right.

    Not asked while the workflow is parsed, for a finished run can be read-only.
    """
    clock = require_writable(OUT, "output_dir", "Name another folder.")
    with user_errors():
        refuse_foreign(OUT, SAMPLES, TO_BE_MADE)
        for controls in CONTROLLED:
            refuse_foreign(OUT, [controls])
        check_clock(OUT, clock, [*(path for files in SAMPLES.values() for path in files), *GIVEN], time.time())


def say_the_end():
    """What was found, and where it is."""
    if text := run_summary(Path(OUT), SAMPLES):
        print(text, file=sys.stderr)
    if len(SAMPLES) > 1 and Path(OUT, REPORT).is_file():
        print(f"all samples: {OUT}/{REPORT}", file=sys.stderr)


def say_the_end_at(message):
    """Say it, too, where Snakemake says this: if there is nothing to do, it calls no hook."""

    class Watching(logging.Handler):
        def emit(self, record):
            if record.getMessage() != message:
                return
            if os.environ.get(QUIET):  # then another thread shows what Snakemake says, and would do so after the end
                print(message, file=sys.stderr)
            if not workflow.dryrun:
                say_the_end()

    logger.addHandler(Watching())
