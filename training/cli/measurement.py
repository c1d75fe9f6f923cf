"""Evaluating and calibrating a bundle."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facemargin.errors import CalibrationError, ConfigError, DataError
from training.cli.options import Aligned, Bundle, DetectorFile, Json, OnFault, detector_of, print_json, print_table

if TYPE_CHECKING:
    from facemargin import bundle as bundles
    from facemargin.preprocessing import Detector
    from training.data.groups import Groups
    from training.data.protocols import PairSet, Source, TemplatePairs, TemplateSearch
    from training.evaluation_report import AllPairsReport, EvaluationReport
    from training.group_rates import GroupRates
    from training.template_report import TemplatePairsReport, TemplateSearchReport


class ThresholdFrom(StrEnum):
    """Where the one threshold of the rates by group comes from."""

    pairs = "pairs"
    calibration = "calibration"


class FaceWeights(StrEnum):
    """How faces weigh in a template."""

    equal = "equal"
    score = "score"


def evaluate(
    bundle: Bundle,
    images: Annotated[
        Path, typer.Option(help="Folder of the pictures (for LFW, one folder a person), or a .bin file.")
    ],
    pairs: Annotated[
        Path | None, typer.Option(help="The list of pairs, such as LFW's pairs.txt; of CFP, its folder Protocol.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="lfw, bin, cfp-ff, cfp-fp, agedb, calfw, cplfw, pairs, ijb-1:1 or ijb-1:n; else told from the files."
        ),
    ] = None,
    meta: Annotated[Path | None, typer.Option(help="Folder of IJB's lists.")] = None,
    folds: Annotated[str | None, typer.Option(help="Folds to use, such as 5 or 6-10; all by default.")] = None,
    aligned: Aligned = False,
    detector: DetectorFile = None,
    flip_sum: Annotated[
        bool | None,
        typer.Option("--flip-sum/--no-flip-sum", help="Add the mirrored crop; as the bundle says by default."),
    ] = None,
    missing: Annotated[
        OnFault, typer.Option(help="A listed picture that is not there: fail, or skip its pairs and count them.")
    ] = OnFault.fail,
    on_bad: Annotated[
        OnFault, typer.Option(help="A picture that cannot be read: fail, or skip its pairs and count them.")
    ] = OnFault.fail,
    far: Annotated[
        str | None, typer.Option(help="FMRs of the TAR rows, separated by commas, such as 1e-2,1e-3.")
    ] = None,
    refuse_unsupported: Annotated[
        bool,
        typer.Option("--refuse-unsupported", help="Fail where fewer than 30 impostor errors stand behind a TAR row."),
    ] = False,
    groups: Annotated[
        Path | None, typer.Option(help="CSV file person,group: also FMR and FNMR by group, at one threshold.")
    ] = None,
    at_fmr: Annotated[
        float, typer.Option(min=1e-12, max=1.0, help="With --groups: FMR that the threshold is chosen for.")
    ] = 1e-2,
    threshold_from: Annotated[
        ThresholdFrom, typer.Option(help="With --groups: choose it on these pairs, or take the bundle's calibration.")
    ] = ThresholdFrom.pairs,
    face_weights: Annotated[
        FaceWeights, typer.Option(help="With IJB: how faces weigh in a template: equal, or by detection score.")
    ] = FaceWeights.equal,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Also compare every pair of the people's images, for low FMR.")
    ] = False,
    roc: Annotated[Path | None, typer.Option(help="Draw the ROC into this .png or .svg file.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Draw the score distributions into this file.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the bundle's manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle on a protocol: accuracy, EER, AUC and TAR@FAR with intervals over people; IJB's 1:1 and 1:N."""
    from facemargin.bundle import load_bundle
    from training.data.pairs import parse_folds
    from training.data.protocols import PairSet, Source, load_protocol

    loaded = load_bundle(bundle)
    if record and flip_sum not in (None, loaded.manifest.flip_sum):
        raise ConfigError("--record writes what the bundle itself reaches; leave --flip-sum/--no-flip-sum away")
    for picture in (roc, histogram):
        if picture is not None and picture.suffix not in (".png", ".svg"):
            raise ConfigError(f"{picture} must end in .png or .svg")
    fars = None if far is None else _fars(far)
    source = Source(
        images=images, pairs=pairs, meta=meta, folds=None if folds is None else parse_folds(folds), aligned=aligned,
        missing=missing.value,
    )  # fmt: skip
    chosen = load_protocol(protocol, source)
    if not isinstance(chosen, PairSet):
        _refuse_with_templates(groups=groups, all_pairs=all_pairs, roc=roc, histogram=histogram, detector=detector)
        found = _templates(
            loaded, chosen, flip_sum=flip_sum, fars=fars, score_weights=face_weights is FaceWeights.score,
            on_bad=on_bad, skip_missing=missing is OnFault.skip,
        )  # fmt: skip
        _refuse_rows(found, refuse_unsupported)
        _print(loaded, found, None, record=record, as_json=as_json)
        return
    detecting = detector_of(detector, chosen.aligned)
    if all_pairs:
        _require_people(chosen, source)
    grouping = None if groups is None else _grouping(loaded, chosen, groups, at_fmr, threshold_from)
    report = _pairs(loaded, chosen, detecting, flip_sum=flip_sum, fars=fars, on_bad=on_bad)
    _refuse_rows(report, refuse_unsupported)
    if grouping is not None:
        report = report.model_copy(update={"groups": _by_group(chosen, report, *grouping, at_fmr)})
    everyone = _all_pairs(loaded, chosen, report, source, detecting, flip_sum) if all_pairs else None
    _draw(loaded.manifest.name, report, roc, histogram)
    _print(loaded, report, everyone, record=record, as_json=as_json)


def _fars(text: str) -> tuple[float, ...]:
    try:
        fars = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--far must be numbers separated by commas, got {text!r}") from error
    if not all(0 < far <= 1 for far in fars):
        raise ConfigError(f"--far must be rates in (0, 1], got {text!r}")
    return fars


def _refuse_with_templates(**options: object) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot go with IJB's templates")


def _refuse_rows(report: "EvaluationReport | TemplatePairsReport | TemplateSearchReport", refuse: bool) -> None:
    """Refuse figures that too few errors stand behind, where that was asked for."""
    unsupported = report.unsupported()
    if refuse and unsupported:
        rows = "; ".join(f"{row.name}: {row.note}" for row in unsupported)
        raise DataError(f"--refuse-unsupported needs 30 errors behind each row: {rows}")


def _pairs(
    loaded: "bundles.Bundle", pairs: "PairSet", detector: "Detector | None", *,
    flip_sum: bool | None, fars: tuple[float, ...] | None, on_bad: OnFault,
) -> "EvaluationReport":  # fmt: skip
    from facemargin.embedder import Embedder
    from training.evaluate import PAIR_FARS, evaluate_pair_set, with_flip_sum

    model = with_flip_sum(loaded, flip_sum)
    return evaluate_pair_set(
        Embedder(model).embed, pairs, detector=detector, template=model.manifest.preprocessing.template,
        flip_sum=model.manifest.flip_sum, fars=fars or PAIR_FARS, on_bad=on_bad.value,
    )  # fmt: skip


def _templates(
    loaded: "bundles.Bundle", protocol: "TemplatePairs | TemplateSearch", *, flip_sum: bool | None,
    fars: tuple[float, ...] | None, score_weights: bool, on_bad: OnFault, skip_missing: bool,
) -> "TemplatePairsReport | TemplateSearchReport":  # fmt: skip
    from facemargin.embedder import Embedder
    from training.data.protocols import TemplatePairs
    from training.evaluate import with_flip_sum
    from training.templates import TEMPLATE_FARS, evaluate_template_pairs, evaluate_template_search

    model = with_flip_sum(loaded, flip_sum)
    embed, template, flipped = Embedder(model).embed, model.manifest.preprocessing.template, model.manifest.flip_sum
    if isinstance(protocol, TemplatePairs):
        return evaluate_template_pairs(
            embed, protocol, template=template, flip_sum=flipped, score_weights=score_weights,
            fars=fars or TEMPLATE_FARS, on_bad=on_bad.value, skip_missing=skip_missing,
        )  # fmt: skip
    if fars is not None:
        raise ConfigError("--far belongs to 1:1; a search reports FNIR at FPIR")
    return evaluate_template_search(
        embed, protocol, template=template, flip_sum=flipped, score_weights=score_weights, on_bad=on_bad.value,
        skip_missing=skip_missing,
    )  # fmt: skip


def _grouping(
    loaded: "bundles.Bundle", pairs: "PairSet", path: Path, at_fmr: float, threshold_from: ThresholdFrom
) -> "tuple[Groups, float | None]":
    """The groups and the calibration's threshold, with every mistake in them told before anything is embedded."""
    from training.data.groups import read_groups
    from training.group_errors import require_groups

    groups = read_groups(path)
    require_groups(pairs, groups)
    if threshold_from is ThresholdFrom.pairs:
        return groups, None
    calibration = loaded.manifest.calibration
    if calibration is None:
        raise CalibrationError(f"{loaded.path} has no calibration; `facemargin calibrate` makes one")
    return groups, calibration.threshold(at_fmr, extrapolate=False).value


def _by_group(
    pairs: "PairSet", report: "EvaluationReport", groups: "Groups", threshold: float | None, at_fmr: float
) -> "GroupRates":
    from training.group_errors import rates_by_group

    return rates_by_group(pairs, report, groups, fmr=at_fmr, threshold=threshold)


def _require_people(pairs: "PairSet", source: "Source") -> None:
    if pairs.people is None or not source.images.is_dir():
        raise ConfigError("--all-pairs needs a folder a person and a protocol that names the people, as LFW's does")


def _all_pairs(
    loaded: "bundles.Bundle", pairs: "PairSet", report: "EvaluationReport", source: "Source",
    detector: "Detector | None", flip_sum: bool | None,
) -> "AllPairsReport":  # fmt: skip
    from facemargin.embedder import Embedder
    from training.all_pairs import embed_people, evaluate_all_pairs
    from training.evaluate import with_flip_sum

    vectors, names = embed_people(
        Embedder(with_flip_sum(loaded, flip_sum)).embed, source.images, set(pairs.people or ()), aligned=pairs.aligned,
        detector=detector, template=loaded.manifest.preprocessing.template,
    )  # fmt: skip
    return evaluate_all_pairs(vectors, names, protocol=f"all pairs of {report.protocol}")


def _draw(name: str, report: "EvaluationReport", roc: Path | None, histogram: Path | None) -> None:
    from training.plots import Scores, plot_roc, plot_scores

    if roc is not None:
        plot_roc({name: Scores(report.genuine, report.impostor)}, roc, title=report.protocol)
    if histogram is not None:
        plot_scores(report.genuine, report.impostor, histogram, title=report.protocol)


def _print(
    loaded: "bundles.Bundle", report: "EvaluationReport | TemplatePairsReport | TemplateSearchReport",
    everyone: "AllPairsReport | None", *, record: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the figures, and record them in the manifest where that was asked for."""
    from facemargin.bundle import update_manifest

    if record:
        found = report.records() + (() if everyone is None else everyone.records())
        kept = {(old.protocol, old.name): old for old in loaded.manifest.metrics}
        kept |= {(new.protocol, new.name): new for new in found}
        update_manifest(loaded, loaded.manifest.model_copy(update={"metrics": tuple(kept.values())}))
    if as_json:
        content = report.model_dump(mode="json", exclude={"similarity", "same", "fold"})
        print_json(content | {"all_pairs": None if everyone is None else everyone.model_dump(mode="json")})
        return
    for table in report.to_tables():
        print_table(table)
    if everyone is not None:
        print_table(everyone.to_table())


def calibrate(
    bundle: Bundle,
    images: Annotated[Path, typer.Option(help="Folder with one folder a person; people the model was not trained on.")],
    pairs: Annotated[Path | None, typer.Option(help="Use only the people in this pairs file.")] = None,
    folds: Annotated[str | None, typer.Option(help="Folds of the pairs file, such as 5.")] = None,
    aligned: Aligned = False,
    detector: DetectorFile = None,
    prior: Annotated[
        float, typer.Option(min=1e-6, max=1 - 1e-6, help="P(same) before the photographs are seen.")
    ] = 0.5,
    source: Annotated[str, typer.Option(help="Whose photographs these are, for the manifest.")] = "",
    as_json: Json = False,
) -> None:
    """Fit probabilities and thresholds to your own photographs and write them into the bundle's manifest."""
    from facemargin.bundle import load_bundle
    from training.calibration import calibrate_bundle
    from training.data.pairs import parse_folds, read_pairs

    people = None
    if pairs is not None:
        people = read_pairs(pairs).people(None if folds is None else parse_folds(folds))
    elif folds is not None:
        raise ConfigError("--folds goes with --pairs")
    changed = calibrate_bundle(
        load_bundle(bundle), images, people=people, aligned=aligned, detector=detector_of(detector, aligned),
        prior=prior, source=source or str(images.name) + ("" if folds is None else f", fold {folds}"),
    )  # fmt: skip
    fitted = changed.manifest.calibration
    if fitted is None:
        raise CalibrationError(f"{bundle} has no calibration after calibrating")
    if as_json:
        print_json(fitted.model_dump(mode="json"))
        return
    typer.echo(
        f"{fitted.people:,} people, {fitted.genuine_pairs:,} genuine and {fitted.impostor_pairs:,} impostor pairs"
    )
    for row in fitted.rows:
        note = "" if row.supported else "  not supported: fewer than 30 errors"
        typer.echo(f"FMR {row.fmr:.0e}: cosine {row.threshold:.4f} ({row.errors} impostor errors){note}")
