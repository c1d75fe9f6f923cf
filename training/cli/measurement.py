"""Evaluating and calibrating a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from facemargin.errors import CalibrationError, ConfigError
from training.cli.options import Aligned, Bundle, DetectorFile, Json, detector_of, print_json, print_table


def evaluate(
    bundle: Bundle,
    images: Annotated[Path, typer.Option(help="Folder with one folder a person.")],
    pairs: Annotated[Path, typer.Option(help="Pairs in the form of LFW's pairs.txt.")],
    folds: Annotated[str | None, typer.Option(help="Folds to use, such as 5 or 6-10; all by default.")] = None,
    aligned: Aligned = False,
    detector: DetectorFile = None,
    flip_sum: Annotated[
        bool | None,
        typer.Option("--flip-sum/--no-flip-sum", help="Add the mirrored crop; as the bundle says by default."),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Also compare every pair of the people's images, for low FMR.")
    ] = False,
    roc: Annotated[Path | None, typer.Option(help="Draw the ROC into this .png or .svg file.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Draw the score distributions into this file.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the bundle's manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle on verification pairs: k-fold accuracy, EER, AUC and TAR@FAR with intervals over people."""
    from facemargin.bundle import load_bundle, update_manifest
    from facemargin.embedder import Embedder
    from training.data.pairs import parse_folds, read_pairs
    from training.evaluate import embed_people, evaluate_all_pairs, evaluate_bundle, with_flip_sum
    from training.plots import Scores, plot_roc, plot_scores

    loaded, protocol = load_bundle(bundle), read_pairs(pairs)
    if record and flip_sum not in (None, loaded.manifest.flip_sum):
        raise ConfigError("--record writes what the bundle itself reaches; leave --flip-sum/--no-flip-sum away")
    for picture in (roc, histogram):
        if picture is not None and picture.suffix not in (".png", ".svg"):
            raise ConfigError(f"{picture} must end in .png or .svg")
    chosen = None if folds is None else parse_folds(folds)
    detecting = detector_of(detector, aligned)
    report = evaluate_bundle(
        loaded, protocol, images, folds=chosen, aligned=aligned, detector=detecting, flip_sum=flip_sum,
        protocol=pairs.name,
    )  # fmt: skip
    everyone = None
    if all_pairs:
        people = (protocol if chosen is None else protocol.select(chosen)).people()
        template = loaded.manifest.preprocessing.template
        vectors, names = embed_people(
            Embedder(with_flip_sum(loaded, flip_sum)).embed, images, people, aligned=aligned, detector=detecting,
            template=template,
        )  # fmt: skip
        everyone = evaluate_all_pairs(vectors, names, protocol=f"all pairs of {report.protocol}")
    if roc is not None:
        plot_roc({loaded.manifest.name: Scores(report.genuine, report.impostor)}, roc, title=report.protocol)
    if histogram is not None:
        plot_scores(report.genuine, report.impostor, histogram, title=report.protocol)
    if record:
        found = report.records() + (() if everyone is None else everyone.records())
        kept = {(old.protocol, old.name): old for old in loaded.manifest.metrics}
        kept |= {(new.protocol, new.name): new for new in found}
        update_manifest(loaded, loaded.manifest.model_copy(update={"metrics": tuple(kept.values())}))
    if as_json:
        content = report.model_dump(mode="json", exclude={"similarity", "same", "fold"})
        print_json(content | {"all_pairs": None if everyone is None else everyone.model_dump(mode="json")})
        return
    print_table(report.to_table())
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
    from training.data.pairs import parse_folds, read_pairs
    from training.evaluate import calibrate_bundle

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
