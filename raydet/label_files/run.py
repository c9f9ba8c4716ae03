"""One labelling from its beginning, or from where it was left, to coco.json."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch

from raydet.cluster.address import address_of, check_answers
from raydet.cluster.capacity import check_holds, own_bytes, this_machine
from raydet.cluster.needs import Claim
from raydet.config.paths import check_lasts
from raydet.config.run import ClusterConfig
from raydet.data.folder import SUFFIXES
from raydet.errors import ConfigError, DataError, RunError, StorageError
from raydet.faults import storage_error
from raydet.files import locked, remove_unfinished
from raydet.label_files.coco import Exported, export_coco, export_skipped
from raydet.label_files.labeller import FileModel, Job, Labeller
from raydet.label_files.listing import Images, Listing, open_images, write_listing
from raydet.label_files.manifest import Manifest, called, check_same, check_same_images, read_manifest, settings_of
from raydet.label_files.mount_check import sample_files
from raydet.label_files.progress import Progress
from raydet.label_files.shards import Chunk, chunks, finished, shard_path, write_shard
from raydet.label_files.work import WorkList
from raydet.registry import family_of
from raydet.text import is_plain, plural
from raydet.train.saved import SavedModel, load_saved

Finished = Callable[[Chunk, pa.Table], None]

PIECE_IMAGES = 16  # labelled by one call, at least


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What `raydet label` was asked to do."""

    checkpoint: Path  # run or checkpoint folder
    images: str  # folder, glob, image, list file or URI
    out: Path
    root: str | None = None  # of the paths in a list file
    role: str | None = None  # teacher or student
    score_threshold: float | None = None  # None: the method's
    actors: int = 1  # 0: in this process
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    address: str | None = None
    batch: int = 1
    precision: str = "fp32"
    shard_images: int = 512
    retry_skipped: bool = False


def label(options: LabelOptions) -> Exported:
    """Label what is not labelled yet, then write coco.json and skipped.csv.

    Raises UserErrors for what was asked for wrongly, RunError where nothing could be labelled or actors keep dying.
    """
    _check(options)
    check_lasts(options.out, "--out")
    if options.actors:
        check_answers(ClusterConfig(address=options.address))
    saved = load_saved(options.checkpoint, role=options.role)
    model = family_of(saved.config).on_files(saved)
    above = score_threshold(saved, model, options.score_threshold)
    images = open_images(options.images, options.root)
    folder = options.out.absolute()
    _prepare(folder)
    in_use = ConfigError(f"--out {folder} is in use by another process; wait for it or end it")
    with locked(folder / ".lock", in_use), _saying_what_is_kept(folder):
        listing, manifest = _begin(folder, saved, model, images, options)
        print(f"{saved.role} of {saved.checkpoint.path}: {listing.count:,} images of {images.given} -> {folder}")
        _label_rest(folder, model, images, listing, manifest, options)
        return _export(folder, saved, listing, options, above)


def score_threshold(saved: SavedModel, model: FileModel, given: float | None) -> float:
    """Return the class confidence that a label must exceed: the one given, else the one the method trains with."""
    own = model.threshold if given is None else given
    if own is None:
        name = saved.config.method.name
        raise ConfigError(
            f"--score-threshold is missing: the model was trained with method.name={name}, which has no threshold "
            f"for pseudo-boxes; give one, e.g. --score-threshold 0.7"
        )
    return own


@contextmanager
def _saying_what_is_kept(folder: Path) -> Iterator[None]:
    """Let the message about a disk that gave out say what there is to go on from."""
    try:
        yield
    except StorageError as error:
        shards = plural(len(list((folder / "shards").glob("part-*.parquet"))), "finished shard")
        raise StorageError(f"{error}. {shards} of labels are whole: after that the same command goes on") from None


def _check(options: LabelOptions) -> None:
    if options.actors < 0 or options.batch < 1 or options.shard_images < 1:
        raise ConfigError("--actors must be 0 or more, --batch and --shard-images 1 or more")
    if options.cpus_per_actor < 0 or options.gpus_per_actor < 0:
        raise ConfigError("--cpus-per-actor and --gpus-per-actor must be 0 or more")
    if options.score_threshold is not None and not 0 <= options.score_threshold < 1:
        raise ConfigError(f"--score-threshold {options.score_threshold:g}: expected a number in [0, 1)")
    if options.out.parts[:1] and options.out.parts[0].endswith(":"):
        raise ConfigError(f"--out {options.out}: must be a folder this process can write to, not a URI")
    if options.actors == 0 and options.gpus_per_actor and not torch.cuda.is_available():
        raise ConfigError("--gpus-per-actor with --actors 0: no GPU here")


def _prepare(folder: Path) -> None:
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--out {folder} is a file, or lies below one; choose a folder") from None
    except OSError as error:
        raise ConfigError(f"--out {storage_error(folder, error) or f'{folder}: {error.strerror}'}") from None


def _begin(
    folder: Path, saved: SavedModel, model: FileModel, images: Images, options: LabelOptions
) -> tuple[Listing, Manifest]:
    """List the images and write label.json; or make sure that both are as they were."""
    _remove_leftovers(folder)
    file = folder / "listing.jsonl"
    settings = settings_of(saved, model, images, shard_images=options.shard_images, precision=options.precision)
    before = read_manifest(folder / "label.json")
    if before is None:
        if any((folder / "shards").iterdir()):
            raise ConfigError(f"--out {folder} holds shards but no label.json; choose another folder")
        listing = write_listing(images.names(), file)
        if skipped := images.store.not_entered:
            more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
            name = ascii(skipped[0]) if not is_plain(skipped[0]) else skipped[0]
            print(f"note: symlinked folders are not entered: {name}{more}; label what they lead to, or copy it")
        if listing.count == 0:
            what = "no path in it" if images.list_file else f"no images there (looked for {', '.join(SUFFIXES)})"
            raise DataError(f"{images.given}: {what}")
        manifest = Manifest(settings, listing.count, listing.digest, called(saved))
        manifest.write(folder / "label.json")
        return listing, manifest
    check_same(folder, before, Manifest(settings, before.count, before.listing, called(saved)))
    aside = folder / ".listing-now.jsonl"
    check_same_images(folder, images, Listing(file, before.count, before.listing), write_listing(images.names(), aside))
    aside.unlink()
    return Listing(file, before.count, before.listing), before


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed call was writing."""
    for name in ("listing.jsonl", ".listing-now.jsonl", "label.json", "coco.json", "skipped.csv"):
        remove_unfinished(folder, name)
    remove_unfinished(folder / "shards", "part-*.parquet")
    for sorting in folder.glob(f".sorting-{'[a-z0-9_]' * 8}"):  # by `write_listing`, with a name of tempfile's
        shutil.rmtree(sorting)
    (folder / ".listing-now.jsonl").unlink(missing_ok=True)


def _label_rest(
    folder: Path, model: FileModel, images: Images, listing: Listing, manifest: Manifest, options: LabelOptions
) -> None:
    """Label the chunks that have no shard."""
    shards, settings = folder / "shards", manifest.digest
    done: set[int] = set()
    num_done = 0
    for chunk in chunks(listing, options.shard_images):
        note = finished(shards, chunk, settings)
        if note is not None and not (options.retry_skipped and note.skipped):
            done.add(chunk.shard)
            num_done += note.images
    if num_done:
        print(f"{num_done:,} of them were labelled by an earlier call")
    left = listing.count - num_done
    if not left:
        return
    piece = math.ceil(PIECE_IMAGES / options.batch) * options.batch
    work = WorkList((each for each in chunks(listing, options.shard_images) if each.shard not in done), piece)
    progress = Progress(listing.count, num_done)
    job = _job(model, images, listing, options)

    def keep(chunk: Chunk, table: pa.Table) -> None:
        write_shard(shards, chunk, table, settings)

    actors = min(options.actors, math.ceil(left / piece))
    for warning in _crowded(actors, options):
        print(f"warning: {warning}", flush=True)
    with progress:
        if actors == 0:
            _label_here(job, work, keep, progress)
        else:
            from raydet.label_files.actors import Share, label_with_actors

            share = Share(actors, options.cpus_per_actor, options.gpus_per_actor, options.address)
            label_with_actors(job, share, work, keep, progress)
    for line in progress.summary():
        print(line)


def _crowded(actors: int, options: LabelOptions) -> list[str]:
    """Return warnings where the actors are more than this machine has. Raises ConfigError where it cannot hold them."""
    if address_of(ClusterConfig(address=options.address)) is not None:
        return []
    claims = [Claim("actors", max(1, actors), {"CPU": options.cpus_per_actor})]
    return check_holds(claims, this_machine(), {"actors": own_bytes()} if actors else {})


def _job(model: FileModel, images: Images, listing: Listing, options: LabelOptions) -> Job:
    device = "cuda" if options.gpus_per_actor else "cpu"
    if device == "cpu" and torch.cuda.is_available():
        print("note: there is a GPU here that will not be used; --gpus-per-actor 1 uses it")
    threads = max(1, int(options.cpus_per_actor))
    samples = sample_files(images.store, listing) if options.actors else ()
    store = replace(images.store, gray16_range=model.gray16_range)
    return Job(model, store, device, options.precision, options.batch, threads, samples)


def _label_here(job: Job, work: WorkList, keep: Finished, progress: Progress) -> None:
    """Do what actors do in this process, one piece decoded ahead."""
    labeller = Labeller(job)
    progress.started("this process", "no Ray")
    piece = work.next()
    loading = labeller.begin(piece.names) if piece else []
    while piece is not None:
        ahead = work.next()
        coming = labeller.begin(ahead.names) if ahead else []
        table = labeller.finish(piece.names, loading)
        progress.answered("this process", table)
        if (complete := work.done(piece, table)) is not None:
            keep(*complete)
        piece, loading = ahead, coming


def _export(folder: Path, saved: SavedModel, listing: Listing, options: LabelOptions, above: float) -> Exported:
    number = math.ceil(listing.count / options.shard_images)
    shards = [shard_path(folder / "shards", shard) for shard in range(number)]
    skipped = export_skipped(shards, folder / "skipped.csv")
    if skipped == listing.count:
        raise RunError(f"none of {skipped:,} images could be labelled; the reasons are in {folder / 'skipped.csv'}")
    found = export_coco(shards, folder / "coco.json", saved.class_names, above=above)
    print(
        f"{found.images:,} images labelled, {found.boxes:,} boxes with a score above {above:g} ({found.empty:,} images "
        f"without one), {found.skipped:,} images skipped{f' (see {folder}/skipped.csv)' if found.skipped else ''}\n"
        f"{folder / 'coco.json'}"
    )
    return found
