"""``kpframe export``: the figures of a run as CSV or NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="File to write as CSV.")
@click.option("--npz", type=click.Path(path_type=Path, dir_okay=False), help="File to write as NumPy arrays.")
@click.option(
    "--variables", multiple=True, help="Names to write, joined by commas; all by default. Repeatable."
)
@click.option(
    "--max-values", type=click.IntRange(min=1), help="Leave out variables of more values, and say which."
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def export(
    run: Path,
    csv: Path | None,
    npz: Path | None,
    variables: tuple[str, ...],
    max_values: int | None,
    overwrite: bool,
) -> None:
    """Write the figures of RUN, the folder of a run, for other programs.

    CSV has a row for each value: the name of the variable, the coordinates, the value, its units. Numbers are
    written to the last bit. An .npz file has an array for each variable x and coordinate, with x__dims and
    x__units. A run that is under way gives what it has so far.
    """
    from kpframe.cli._progress import step_progress
    from kpframe.errors import OutputError
    from kpframe.study._disk.files import check_file
    from kpframe.study._reading.export import chosen, export_csv, export_npz
    from kpframe.study._reading.tree import figures_of

    if csv is None and npz is None:
        raise click.UsageError("expected --csv FILE or --npz FILE, got neither")
    for path in (csv, npz):
        if path is not None:
            check_file(path)
            if path.exists() and not overwrite:
                raise OutputError(f"{str(path)!r} exists; --overwrite replaces it, or give another file")
    names = [name.strip() for text in variables for name in text.split(",") if name.strip()]
    with figures_of(run) as data:
        own, left_out = chosen(data, names or None, max_values)
        if not own.data_vars and not names:
            raise click.UsageError(
                f"nothing is left to write: all variables have more than {max_values} values"
            )
        if csv is not None:
            with step_progress(late=True) as report:
                count = export_csv(own, csv, report)
            click.echo(f"rows:     {csv}  ({count:,})")
        if npz is not None:
            click.echo(f"arrays:   {npz}  ({export_npz(own, npz):,})")
        if left_out:
            click.echo(f"left out: {', '.join(left_out)}")
        if data.attrs["state"] != "finished":
            click.echo(f"the run is {data.attrs['state']}: this is what it has so far", err=True)
