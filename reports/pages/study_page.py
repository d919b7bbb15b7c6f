"""The accuracy table as a page in markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.text import prose
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.pages.study_parts import Picture

INTRODUCTION: Final = """\
Written by `nmsat study`; `accuracy.json` beside it holds the same numbers and every single run with its command.
[docs/training.md](../../docs/training.md) says what methods, networks, data and splits are.

- A line is the mean of its seeds, +- the standard deviation between them. A run is repeated by its name:
  `nmsat train --cell resnet9-small-bdwp-2of8-seed1`; the first column is that name without `-seed`.
- *loss* is against dense runs of the same seeds, in percent points; negative is better than dense. One image of the
  digits' test split is 0.22 points.
{cycles}
- *masks FF, BP* are the shares of mask elements that change per update (SAD), mean over the run.
- In the pictures every error bar is a 95 % confidence interval of the mean loss: Student's t, each run paired with
  the dense run of its seed. Few seeds make it wide: one that holds 0 shows neither a loss nor that there is none."""

CYCLES: Final = """\
*multiply-adds* are those of a whole run against the dense run's; *SAT cycles* are those of one step, simulated on
configuration {machine} from the step's own tape, the programs of its products and weight updates with their memory,
without host operators; *bound* is the speed-up that the multiply-adds alone allow. Cycles and speed-ups are those of
the {origin}. *no program*: the machine has none for a product of the method (docs/machine/programs.md)."""


def study_page(data: dict[str, Any], pictures: Mapping[str, Picture]) -> str:
    """Return the page of what `reports.work.study.gather` found; pictures: as `reports.pages.study_plots.draw` returns
    them."""
    cycles = prose(CYCLES.format(machine=data["machine"], origin=_origin(data)), bullet=True)
    parts = ["# Accuracy of the training methods", INTRODUCTION.format(cycles=cycles)]
    if data.get("data"):
        parts[-1] += f"\n- Networks train on images of an IDX folder (`--data`): {', '.join(data['data'])}."
    parts[-1] += f"\n{_arithmetic(data['recipes'])}"
    parts += ["## Against the paper", *_shown(pictures, "networks"), _paper(data)]
    if "speed" in pictures:
        parts += ["## Loss against speed-up", *_shown(pictures, "speed")]
    if "methods" in pictures or "patterns" in pictures:
        parts += ["## Methods and patterns", *_shown(pictures, "methods"), *_shown(pictures, "patterns")]
    for network in dict.fromkeys(row["network"] for row in data["rows"]):
        parts += [f"## {network}", _network([row for row in data["rows"] if row["network"] == network])]
    if data["ablations"]:
        parts += ["## Ablations of BDWP 2:8", _ablations(data["ablations"])]
    if data["masks"]:
        parts += ["## How much the masks move", *_shown(pictures, "masks"), _masks(data)]
    if data["rates"]:
        parts += ["## Learning rates, chosen on the validation split", *_rates(data["rates"])]
    return "\n\n".join(parts) + "\n"


def _arithmetic(recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the line that says in what the runs computed: who reads the table must not take `fast` for SAT's bits."""
    fast = [network for network, recipe in recipes.items() if recipe["arithmetic"] == "fast"]
    if not fast:
        return "- All runs compute in the machine's own arithmetic (`contract`, docs/arithmetic.md)."
    which = "All runs" if len(fast) == len(recipes) else f"The runs of {', '.join(fast)}"
    return (
        f"- **{which} computed in plain binary32 (`fast`), not in the machine's arithmetic**; to repeat one, append\n"
        "  `,arithmetic=fast` to its name. Runs made now compute in the machine's arithmetic."
    )


def _origin(data: dict[str, Any]) -> str:
    """Return where the cycles come from; those of versions up to 0.1 are told apart."""
    if data["source"] not in tuple(Source):
        return f"{data['source']} of versions up to 0.1, not of the machine (docs/predicted.md)"
    return "; ".join(told_lines(Source(data["source"]), data.get("planned", ())))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(pictures: Mapping[str, Picture], name: str) -> list[str]:
    """Return a picture with its title and caption, nothing if there is none."""
    if name not in pictures:
        return []
    found = pictures[name]
    return [prose(f"**{found.title}.** {found.caption}"), f"![{found.title}]({found.file})"]


def _paper(data: dict[str, Any]) -> str:
    rows = data["paper"]
    if not rows:
        return "No dense and BDWP 2:8 runs of the paper's networks here."
    header = ("network", "seeds", "dense", "BDWP 2:8", "loss", "standard error", "speed-up on SAT", "bound")
    lines = [
        (
            row["network"],
            str(row["seeds"]),
            f"{row['dense']:.2%}",
            f"{row['bdwp']:.2%}",
            _points(row["loss"]),
            "" if row["error"] is None else f"{row['error']:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['bound']:.2f}",
        )
        for row in rows
    ]
    loss = statistics.fmean(row["loss"] for row in rows)
    errors = [row["error"] or 0.0 for row in rows]
    error = sum(e * e for e in errors) ** 0.5 / len(errors)
    text = (
        f"The loss of BDWP 2:8 is {_points(loss)} points on average over {len(rows)} networks (standard error "
        f"{error:.2f}). The paper reports {data['paper_loss']:.2f} over its five, larger ones on other data."
    )
    return f"{prose(text)}\n\n{markdown(header, lines)}"


def _network(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        *("run", "seeds", "accuracy", "loss", "multiply-adds", "SAT cycles", "speed-up", "bound"),
        *("masks FF", "masks BP"),
    )
    dense = next((row["macs_kept"] for row in rows if row["method"] == "dense"), None)
    return markdown(header, [_line(row, dense) for row in rows])


def _line(row: dict[str, Any], dense: float | None) -> tuple[str, ...]:
    pattern = "" if row["method"] == "dense" else f"-{row['pattern'].replace(':', 'of')}"
    sat = row["sat"]
    return (
        f"`{row['network']}-{row['method']}{pattern}`",
        _seeds(row["run_seeds"]),
        f"{row['accuracy']:.2%} +- {100 * row['spread']:.2f}",
        _points(row["loss_points"]),
        f"{row['macs_kept']:.3g}" + ("" if dense is None else f" ({row['macs_kept'] / dense:.0%})"),
        "no program" if sat["cycles"] is None else _spaced(sat["cycles"]),
        "" if sat["speedup"] is None else f"{sat['speedup']:.2f}",
        f"{sat['bound']:.2f}",
        _share(row["sad_ff"]),
        _share(row["sad_bp"]),
    )


def _ablations(rows: Sequence[dict[str, Any]]) -> str:
    header = ("network", "BDWP 2:8", "seeds", "accuracy", "loss", "SAT cycles", "masks FF", "masks BP")
    lines = [
        (
            row["network"],
            row["label"],
            _seeds(row["run_seeds"]),
            f"{row['accuracy']:.2%} +- {100 * row['spread']:.2f}",
            _points(row["loss_points"]),
            _spaced(row["sat"]["cycles"]),
            _share(row["sad_ff"]),
            _share(row["sad_bp"]),
        )
        for row in rows
    ]
    return markdown(header, lines)


def _masks(data: dict[str, Any]) -> str:
    """Return the table: first epoch, middle, last."""
    header = ("network", "method", "pattern", "first epoch", "half-way", "last epoch", "first, BP", "last, BP")
    lines = []
    for item in data["masks"]:
        if item["variant"] or item["pattern"] != "2:8":
            continue
        ff, bp = item["sad_ff"], item["sad_bp"]
        shares = (ff[0], ff[(len(ff) - 1) // 2], ff[-1], bp[0], bp[-1])
        lines.append((item["network"], item["method"], item["pattern"], *map(_share, shares)))
    return markdown(header, lines)


def _rates(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        (
            item["network"],
            f"{rate['lr']:g}",
            f"{rate['dense']:.2%}",
            f"{rate['bdwp']:.2%}",
            "chosen" if rate["lr"] == item["best"] else "",
        )
        for item in found
        for rate in item["rates"]
    ]
    other = [item["network"] for item in found if item["best"] != item["recipe"]]
    text = "Mean accuracy on the validation split over the seeds of `training.study.RATE_SEEDS`. The rate with the "
    text += "highest mean of both columns is the recipe's, of equals the lowest."
    if other:
        text += f" These choices would differ from the recipes: {', '.join(other)}."
    return [prose(text), markdown(("network", "learning rate", "dense", "BDWP 2:8", ""), lines)]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _points(value: float | None) -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return "" if value is None else f"{round(value, 2) + 0:.2f}"


def _share(value: float) -> str:
    return f"{value:.3%}" if value else ""


def _spaced(value: int) -> str:
    return f"{value:,}".replace(",", " ")
