"""How the data of a run is read, checked, split and stored: one order for all families; their own part is steps.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection, SetConfig
from raydet.data.bad_images import add_left_out, write_left_out
from raydet.data.check import CheckReport, FixPolicy, FixResult, Summary, report_of
from raydet.data.leaks import report_repeated_images, report_shared_images
from raydet.data.prepared import SETS, PreparedSets, leave_out_damaged, open_set, open_sets, write_sets
from raydet.data.problems import ProblemLog
from raydet.data.saved_split import SplitError, copy_split, saved_or_drawn
from raydet.data.sources import check_same, check_sources, write_sources
from raydet.data.steps import AnyIndex, AnyTable, DataSteps
from raydet.data.withheld import spare, withheld
from raydet.errors import DataError, UserError
from raydet.files import make_folder
from raydet.text import plural

_TITLE = "the data cannot be used (`raydet check-data` lists everything)"


class DataFamily(DataSteps[SetConfig, AnyTable, AnyIndex]):
    """What all families do with the steps of one."""

    def prepare(self, config: DataSection[SetConfig], folder: Path) -> PreparedSets[AnyIndex]:
        """Write the index files of a run and `FOLDER/split.json`; a saved split is used again.

        Raises DataError that lists the first errors of all sets. What training survives is in `warnings`.
        """
        make_folder(folder)
        log, tables = ProblemLog(), {}
        left_out: dict[str, list[tuple[str, str]]] = {}
        for name, one in config.sets.items():
            generated = folder / "generated" / name
            so_far = len(log.left_out)
            try:
                tables[name], _ = self.read(name, one, log, settings=config, generated=generated, decode_images=False)
            except DataError as error:
                raise DataError(log.explained(f"data.{name}: {error}")) from None
            left_out[name] = log.left_out[so_far:]
        log.raise_errors(_TITLE)
        if self.is_barren(tables["labeled"]):  # before its classes are compared with those of others
            self.report_classes(tables["labeled"], "labeled", config.main.path, log)
        log.raise_errors(_TITLE)
        tables = self._with_common_classes(tables, config, log)
        log.raise_errors(_TITLE)
        tables = self._with_val(tables, config)
        tables = _with_split(tables, self.labeled_rows(config, tables["labeled"], folder / "split.json"))
        self._report_barren_split(tables["labeled"], config, log)
        log.raise_errors(_TITLE)
        tables["labeled"] = self.thinned(config, tables["labeled"])
        self._report_relations(tables, config, log, most_files=self.most_files_searched)
        log.raise_errors(_TITLE)
        hidden: AnyTable | None = None
        for name in self.hides_of:
            if name in tables:  # of the last one, even where that is nothing: rows of another set are other images
                hidden, tables[name] = self.hidden_and_bare(tables[name])
        tables |= {} if hidden is None else {"hidden": hidden}
        write_left_out(folder, left_out, log)
        write_sets(folder, self.kind, tables, self.write)
        write_sources(folder, {name: table for name, table in tables.items() if name != "hidden"})
        return open_sets(folder, self.kind, self.index, log.warnings())

    def labeled_rows(self, config: DataSection[SetConfig], table: AnyTable, file: Path) -> NDArray[np.int64]:
        """Return the rows that keep their labels, ascending: read from `file` where it exists, else drawn and saved.

        Raises DataError where the saved split was made with other settings or for other images.
        """
        return saved_or_drawn(
            file,
            self.ids(table),
            lambda: self.choose_rows(config, table),
            rule=config.split_rule,
            fingerprint=self.fingerprint(table),
        )

    def spare(self, table: AnyTable, count: int) -> int:
        """Return how many of `count` images of the labelled set could be withheld (`val_count`), by the first seed."""
        return len(spare(self.ids(table), *self.classes_of(table), 0, count))

    def trained_on(self, config: DataSection[SetConfig], table: AnyTable) -> AnyTable:
        """Return the images of the labelled set that a run trains on with their labels; saves nothing.

        Raises DataError where `config` asks for too much.
        """
        left = self._with_val({"labeled": table}, config)["labeled"]
        return left.take(self.choose_rows(config, left))

    def open(self, folder: str | Path) -> PreparedSets[AnyIndex]:
        """Open what `prepare` wrote. Raises DataError where it is missing, incomplete or damaged."""
        return open_sets(Path(folder), self.kind, self.index)

    def check_sources(self, config: DataSection[SetConfig], sets: PreparedSets[AnyIndex], *names: str) -> None:
        """Raise DataError unless the images of the sets `names` are where and what they were when the run began."""
        for name in names:
            if (index := getattr(sets, name)) is not None:
                key = f"data.{name if name != 'labeled' and name in config.sets else config.main_key}"
                check_sources(sets.folder, name, index, key=key, skips=config.on_bad_image == "skip")

    def relocate(self, config: DataSection[SetConfig], folder: Path) -> PreparedSets[AnyIndex]:
        """Take a run's data from where `config` says that it lies now. Raises DataError unless it is the same."""
        with TemporaryDirectory(prefix=".moved-", dir=folder) as aside:
            now = Path(aside)
            copy_split(folder / "split.json", now / "split.json", config.split_rule)
            try:
                self.prepare(config, now)
            except SplitError:  # of other images: which is said below
                (now / "split.json").unlink()
                self.prepare(config, now)
            check_same(folder, now, SETS, self.index)
            for file in now.iterdir():
                if file.is_file():
                    file.replace(folder / file.name)
        return self.open(folder)

    def leave_out_damaged(self, folder: Path) -> int:
        """Decode all images of a run that is to go on; of those that are damaged, another one takes the place.

        Which one depends on nothing but the row. They are added to `FOLDER/skipped.jsonl`. Returns how many were found.
        """
        found = leave_out_damaged(folder, self.kind, self.index, hidden_of=self.hides_of[-1])
        add_left_out(folder, found)
        return len(found)

    def open_hidden(self, folder: str | Path) -> AnyIndex | None:
        """Return what is hidden from training, row by row as in the set that it is hidden of, for diagnostics only."""
        return open_set(Path(folder), self.kind, "hidden", self.index)

    def prepare_one(
        self,
        one: SetConfig,
        folder: Path,
        *,
        class_names: tuple[str, ...],
        settings: DataSection[SetConfig] | None = None,
    ) -> AnyIndex:
        """Read and check one set by itself, number its classes as a model does, write `FOLDER/data.arrow` and open it.

        `settings`: of the run whose rules it is read by; what is left out by them is in `FOLDER/skipped.jsonl`.
        Raises DataError where it cannot be used, or needs a class that the model does not know.
        """
        make_folder(folder)
        log, path = ProblemLog(), one.path
        table, _ = self.read("val", one, log, settings=settings, generated=folder, decode_images=False)
        write_left_out(folder, {"val": log.left_out}, log)
        log.raise_errors(_TITLE)
        if self.is_barren(table):
            self.report_classes(table, "given", path, log)
            log.raise_errors(_TITLE)
        table = self.renumbered(table, class_names, "given", path, log)
        self.report_classes(table, "given", path, log)
        log.raise_errors("the data does not fit the model")
        self.write(folder / "data.arrow", table)
        return self.index.open(folder / "data.arrow")

    def check(self, config: DataSection[SetConfig], *, decode_images: bool = True) -> CheckReport:
        """Check all sets of a configuration, and what holds between them: classes, the split, pictures in two sets.

        `decode_images` also finds images that are damaged behind their header.
        """
        log = ProblemLog()
        tables: dict[str, AnyTable] = {}
        summaries = []
        with TemporaryDirectory(prefix="raydet-") as generated:
            for name, one in config.sets.items():
                found = self._looked_at(name, one, log, config, Path(generated) / name, decode_images)
                if found is not None:
                    tables[name], summary = found
                    summaries.append(summary)
            if "labeled" in tables and self.is_barren(tables["labeled"]):
                self.report_classes(tables["labeled"], "labeled", config.main.path, log)
            elif "labeled" in tables:
                tables = self._with_common_classes(tables, config, log)
                try:
                    tables = self._with_val(tables, config)
                    tables = _with_split(tables, self.choose_rows(config, tables["labeled"]))
                    self._report_barren_split(tables["labeled"], config, log)
                    tables["labeled"] = self.thinned(config, tables["labeled"])
                except DataError as error:
                    log.error("split", "data", "", str(error))
                self._report_relations(tables, config, log)  # reads the images again
        return report_of(summaries, log, tables)

    def check_one(self, one: SetConfig, *, decode_images: bool = True) -> CheckReport:
        """Check one set, whatever it is for."""
        log = ProblemLog()
        with TemporaryDirectory(prefix="raydet-") as generated:
            found = self._looked_at("data", one, log, None, Path(generated), decode_images)
        if found is not None:
            self.report_classes(found[0], "data", one.path, log)
        return report_of([found[1]] if found else [], log)

    def fix(self, one: SetConfig, policy: FixPolicy, out: Path) -> FixResult:
        """Write a cleaned copy of one set's annotations to `out`. Raises UserError where the family has none such."""
        raise UserError(f"--fix is for boxes, {one.path} has classes: mend there what check-data lists without --fix")

    def _looked_at(
        self,
        name: str,
        one: SetConfig,
        log: ProblemLog,
        settings: DataSection[SetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[AnyTable, Summary] | None:
        """Read one set, or report why it cannot be read."""
        try:
            table, format = self.read(
                name, one, log, settings=settings, generated=generated, decode_images=decode_images
            )
        except DataError as error:
            log.error("data-set", name, "", str(error))
            return None
        report_repeated_images(table, log)
        return table, self.summarise(name, one.path, format, table, look=decode_images)

    def _with_common_classes(
        self, tables: Mapping[str, AnyTable], config: DataSection[SetConfig], log: ProblemLog
    ) -> dict[str, AnyTable]:
        """Give all sets the class numbers of the labelled set."""
        names = tables["labeled"].class_names
        return {
            name: table if name == "labeled" else self.renumbered(table, names, name, config.sets[name].path, log)
            for name, table in tables.items()
        }

    def _report_barren_split(self, table: AnyTable, config: DataSection[SetConfig], log: ProblemLog) -> None:
        if self.is_barren(table):
            message = (
                f"nothing is known of {plural(len(table), 'image')} that "
                f"data.{next(iter(config.split_rule), '')} chooses"
            )
            log.error("split-barren", config.main.path, "", message, "choose images that show objects")

    def _with_val(self, tables: Mapping[str, AnyTable], config: DataSection[SetConfig]) -> dict[str, AnyTable]:
        """Withhold `val_count` of the labelled images as the validation set. Raises DataError where it is too many."""
        if config.val_count is None:
            return dict(tables)
        whole = tables["labeled"]
        rows = withheld(self.ids(whole), *self.classes_of(whole), config.split_seed, config.val_count)
        rest = np.setdiff1d(np.arange(len(whole)), rows)
        return {**tables, "labeled": whole.take(rest), "val": whole.take(rows)}

    def _report_relations(
        self,
        tables: Mapping[str, AnyTable],
        config: DataSection[SetConfig],
        log: ProblemLog,
        *,
        most_files: int | None = None,
    ) -> None:
        for name, table in tables.items():
            if name != "unlabeled" and not (name == "labeled" and self.is_barren(table)):
                self.report_classes(table, name, config.sets.get(name, config.main).path, log)
        report_shared_images(tables, log, most_files=most_files)


def _with_split(tables: Mapping[str, AnyTable], rows: NDArray[np.int64]) -> dict[str, AnyTable]:
    """Keep the images `rows` labelled; without an unlabelled set of its own, the rest becomes unlabelled."""
    whole = tables["labeled"]
    if len(rows) == len(whole):
        return dict(tables)
    split = {**tables, "labeled": whole.take(rows)}
    if "unlabeled" not in tables:
        split["unlabeled"] = whole.take(np.setdiff1d(np.arange(len(whole)), rows))
    return split
