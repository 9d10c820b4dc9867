"""What is said of a conversion, or of its dry run: page and key=value lines."""

from hyperexport.base.display import Page, Pairs, lines, numbered, pages_of, pairs_of, table
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.convert.values import Conversion


@pages_of.register
def _(result: Conversion) -> tuple[Page, ...]:
    done = "Would convert" if result.dry_run else "Converted"
    took = "" if result.dry_run else f" in {format_elapsed(result.seconds)}"
    size, needed = ("Size at most", "Space needed at most") if result.dry_run else ("Size", "Space on disk")
    rows: list[dict[str, object]] = [
        {
            "File": str(file.path),
            "Made of": file.source or "-",
            size: format_bytes(file.size),
            needed: format_bytes(file.allocated),
        }
        for file in result.files
    ]
    tables = (*table("", rows), *lines("Warnings", result.warnings))
    return (Page(f"{done} {result.vm.path}, export {result.export_id}, to {result.to}{took}", tables),)


@pairs_of.register
def _(result: Conversion) -> Pairs:
    files = zip(
        numbered("file", (file.path for file in result.files)),
        numbered("size", (file.size for file in result.files)),
        strict=True,
    )
    return (
        ("vm", result.vm.name),
        ("export", result.export_id),
        ("to", result.to),
        ("dry_run", result.dry_run),
        *(pair for file in files for pair in file),
        *numbered("warning", result.warnings),
    )
