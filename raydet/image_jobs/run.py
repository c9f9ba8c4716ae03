"""One job from its beginning, or from where it was left, to the last of its shards."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydet.cluster.address import address_of, check_answers
from raydet.cluster.capacity import check_holds, own_bytes, this_machine
from raydet.cluster.needs import Claim
from raydet.config.paths import check_lasts
from raydet.config.run import ClusterConfig
from raydet.data.folder import SUFFIXES
from raydet.errors import ConfigError, DataError, RunError, StorageError
from raydet.faults import storage_error
from raydet.files import first_foreign, held, make_folder, remove_unfinished
from raydet.image_jobs.listing import Images, Listing, write_listing
from raydet.image_jobs.manifest import Manifest, check_same, check_same_images, read_manifest
from raydet.image_jobs.mount_check import sample_files
from raydet.image_jobs.progress import Progress
from raydet.image_jobs.shards import Chunk, chunks, finished, shard_path, write_shard
from raydet.image_jobs.skipped import export_skipped
from raydet.image_jobs.words import Words
from raydet.image_jobs.work import WorkList
from raydet.image_jobs.worker import Job, Task, Worker
from raydet.text import is_plain, plural

_SCRATCH = ("shards", "listing.jsonl")  # what a call that was killed at its beginning leaves

Finished = Callable[[Chunk, pa.Table], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What the commands have in common."""

    images: str  # folder, glob, image, list file or URI
    out: Path
    root: str | None = None  # of the paths in a list file
    actors: int = 1  # 0: in this process
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    address: str | None = None
    shard_images: int
    retry_skipped: bool = False


def check_options(options: JobOptions) -> None:
    """Raise ConfigError for what cannot be asked for, or where no Ray answers. Before anything is written."""
    if options.actors < 0 or options.shard_images < 1:
        raise ConfigError("--actors must be 0 or more, --shard-images 1 or more")
    if options.cpus_per_actor < 0 or options.gpus_per_actor < 0:
        raise ConfigError("--cpus-per-actor and --gpus-per-actor must be 0 or more")
    if options.out.parts[:1] and options.out.parts[0].endswith(":"):
        raise ConfigError(f"--out {options.out}: must be a folder this process can write to, not a URI")
    check_lasts(options.out, "--out")
    if options.actors:
        check_answers(ClusterConfig(address=options.address))


@dataclass(frozen=True, slots=True)
class Begun:
    """A job whose images are listed and whose settings are written down, here or by an earlier call."""

    folder: Path
    images: Images
    listing: Listing
    manifest: Manifest
    options: JobOptions
    words: Words

    def work_off(self, task: Task, piece_images: int) -> None:
        """Do what has no shard yet; one call to an actor is `piece_images` images."""
        shards, settings, options = self.folder / "shards", self.manifest.digest, self.options
        done, num_done = self._finished()
        if num_done:
            print(f"{num_done:,} of them were {self.words.done} by an earlier call")
        left = self.listing.count - num_done
        if not left:
            return
        rest = (each for each in chunks(self.listing, options.shard_images) if each.shard not in done)
        work = WorkList(rest, piece_images, task.schema)
        progress = Progress(self.listing.count, num_done)
        samples = sample_files(self.images.store, self.listing) if options.actors else ()
        job = Job(task, self.images.store, max(1, int(options.cpus_per_actor)), samples)

        def keep(chunk: Chunk, table: pa.Table) -> None:
            write_shard(shards, chunk, table, settings)

        actors = min(options.actors, math.ceil(left / piece_images))
        for warning in _crowded(actors, options):
            print(f"warning: {warning}", flush=True)
        with progress:
            if actors == 0:
                _work_here(job, work, keep, progress)
            else:
                from raydet.image_jobs.actors import Share, work_with_actors

                share = Share(actors, options.cpus_per_actor, options.gpus_per_actor, options.address)
                work_with_actors(job, share, work, keep, progress, self.words.noun)
        for line in progress.summary():
            print(line)

    def shards(self) -> list[Path]:
        """Return all shards, in order."""
        number = math.ceil(self.listing.count / self.options.shard_images)
        return [shard_path(self.folder / "shards", shard) for shard in range(number)]

    def export_skipped(self) -> int:
        """Write skipped.csv; return how many images it lists. Raises RunError where that is all of them."""
        skipped = export_skipped(self.shards(), self.folder / "skipped.csv")
        if skipped == self.listing.count:
            reasons = self.folder / "skipped.csv"
            raise RunError(
                f"none of {plural(skipped, 'image')} could be {self.words.done}; the reasons are in {reasons}"
            )
        return skipped

    def _finished(self) -> tuple[set[int], int]:
        """Return the shards that are there, and how many images they hold."""
        done: set[int] = set()
        num_done = 0
        for chunk in chunks(self.listing, self.options.shard_images):
            note = finished(self.folder / "shards", chunk, self.manifest.digest)
            if note is not None and not (self.options.retry_skipped and note.skipped):
                done.add(chunk.shard)
                num_done += note.images
        return done, num_done


@contextmanager
def beginning(
    images: Images, settings: Mapping[str, Any], options: JobOptions, words: Words, *, model: str = "no model"
) -> Iterator[Begun]:
    """Hold --out for this process, list the images and write the manifest; or make sure that both are as they were.

    `settings`: all that the rows depend on, by dotted key, but for the images; `model`: what messages call the model
    whose digest is `model.weights` there. Raises ConfigError and DataError where
    --out cannot be used, or holds the results of other settings or images, or something else; it is left as it was
    found then.
    """
    folder = options.out.absolute()
    in_use = ConfigError(f"--out {folder} is in use by another process; wait for it or end it")
    manifest_file = folder / words.manifest
    holding = held(
        folder, in_use, create=lambda: _prepare(folder), own=(*_SCRATCH, words.manifest), is_kept=manifest_file.exists
    )
    with holding, _saying_what_is_kept(folder, words):
        settings = {**settings, "images_root": str(images.store), "shard_images": options.shard_images}
        listing, manifest = _begin(folder, settings, images, words, model)
        yield Begun(folder, images, listing, manifest, options, words)


def remove_leftovers(folder: Path, words: Words) -> None:
    """Remove what a killed call was writing."""
    for name in ("listing.jsonl", ".listing-now.jsonl", words.manifest, *words.exports, "skipped.csv"):
        remove_unfinished(folder, name)
    remove_unfinished(folder / "shards", "part-*.parquet")
    for sorting in folder.glob(f".sorting-{'[a-z0-9_]' * 8}"):  # by `write_listing`, with a name of tempfile's
        shutil.rmtree(sorting)
    (folder / ".listing-now.jsonl").unlink(missing_ok=True)


@contextmanager
def _saying_what_is_kept(folder: Path, words: Words) -> Iterator[None]:
    """Let the message about a disk that gave out say what there is to go on from."""
    try:
        yield
    except StorageError as error:
        shards = plural(len(list((folder / "shards").glob("part-*.parquet"))), "finished shard")
        kept = f"{shards} of {words.results} are whole: after that the same command goes on"
        raise StorageError(f"{error}. {kept}") from None


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--out {folder} is a file, or lies below one; choose a folder") from None
    except OSError as error:
        raise ConfigError(f"--out {storage_error(folder, error) or f'{folder}: {error.strerror}'}") from None


def _is_scratch(entry: Path) -> bool:
    return entry.name in _SCRATCH and not (entry.is_dir() and any(entry.glob("*.parquet")))


def _begin(
    folder: Path, settings: Mapping[str, Any], images: Images, words: Words, model: str
) -> tuple[Listing, Manifest]:
    file = folder / "listing.jsonl"
    before = read_manifest(folder / words.manifest)
    if before is None and (name := first_foreign(folder, _is_scratch)):
        raise ConfigError(
            f"--out {folder} holds {name} and no {words.manifest}; choose another folder, or a new one in it"
        )
    make_folder(folder / "shards")
    remove_leftovers(folder, words)
    if before is None:
        listing = _listed(images, file, words)
        manifest = Manifest(settings, listing.count, listing.digest, model)
        manifest.write(folder / words.manifest)
        return listing, manifest
    check_same(folder, before, Manifest(settings, before.count, before.listing, model), words)
    listing, aside = Listing(file, before.count, before.listing), folder / ".listing-now.jsonl"
    check_same_images(folder, images, listing, write_listing(images.names(), aside), words)
    aside.unlink()
    return listing, before


def _listed(images: Images, file: Path, words: Words) -> Listing:
    listing = write_listing(images.names(), file)
    if skipped := images.store.not_entered:
        more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
        name = ascii(skipped[0]) if not is_plain(skipped[0]) else skipped[0]
        print(f"note: symlinked folders are not entered: {name}{more}; {words.verb} what they lead to, or copy it")
    if listing.count == 0:
        what = "no path in it" if images.list_file else f"no images there (looked for {', '.join(SUFFIXES)})"
        raise DataError(f"{images.given}: {what}")
    return listing


def _crowded(actors: int, options: JobOptions) -> list[str]:
    """Return warnings where the actors are more than this machine has. Raises ConfigError where it cannot hold them."""
    if address_of(ClusterConfig(address=options.address)) is not None:
        return []
    claims = [Claim("actor", max(1, actors), {"CPU": options.cpus_per_actor})]
    return check_holds(claims, this_machine(), {"actor": own_bytes()} if actors else {})


def _work_here(job: Job, work: WorkList, keep: Finished, progress: Progress) -> None:
    """Do what actors do in this process, one piece decoded ahead."""
    worker = Worker(job)
    progress.started("this process", "no Ray")
    try:
        piece = work.next()
        loading = worker.begin(piece.names) if piece else []
        while piece is not None:
            ahead = work.next()
            coming = worker.begin(ahead.names) if ahead else []
            table = worker.finish(piece.names, loading)
            progress.answered("this process", table)
            if (complete := work.done(piece, table)) is not None:
                keep(*complete)
            piece, loading = ahead, coming
    finally:
        worker.close()
