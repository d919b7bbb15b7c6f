"""The accuracy table as a page in markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.study_parts import METHOD, PATTERN
from nmsat.reports.work.losses import average, beside, half_width, paired_losses, resolved, told_width
from nmsat.reports.work.text import prose
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.pages.study_parts import Picture
    from nmsat.reports.work.losses import Loss, Resolved

INTRODUCTION: Final = """\
Written by `nmsat study`; `accuracy.json` beside it holds the same numbers and the runs with their commands, but for
those that chose learning rates.
[docs/training.md](../../docs/training.md) says what methods, networks, data and splits are.

- A line is the mean of its seeds, +- the standard deviation between them. A run is repeated by its name:
  `nmsat train --cell resnet9-small-bdwp-2of8-seed1`; the first column is that name without `-seed`, and of other data
  with their kind behind the network; the name itself then ends in the data, as `accuracy.json` has it.
- *loss* is against dense runs of the same seeds, in percent points, +- half of its 95 % confidence interval (Student's
  t over the differences of the seeds); negative is better than dense. Where all differences are the same there is no
  interval: their spread is below what one label of the test split resolves, and nothing more is known of it.
{cycles}
- *masks FF, BP* are the shares of mask elements that change per update (SAD), mean over the run.
- In the pictures every error bar is a 95 % confidence interval of the mean loss: Student's t, each run paired with
  the dense run of its seed. Few seeds make it wide: one that holds 0 shows neither a loss nor that there is none."""

UNPAIRED: Final = "dense run missing"
"""What stands for a loss where a seed of the row has no dense run of its data, split and length."""

ABLATED: Final = """\
*gain* is over BDWP as it is in runs of the same seeds, split and length, percent points +- half of the 95 % confidence
interval, blank where no seed has both with their dense runs; *multiply-adds* are those of the whole run, the part
before pruning begins included, beside the dense run's, blank where that is missing;
*SAT cycles* are those of a step that prunes."""

CYCLES: Final = """\
*multiply-adds* are those of a whole run against the dense run's; *SAT cycles* are those of one step, simulated on
configuration {machine} from the step's own tape, the programs of its products and weight updates with their memory,
without host operators; *bound* is the speed-up that the multiply-adds alone allow, which a product that takes more of
the cycles than of the multiply-adds can exceed. Cycles and speed-ups are those of the {origin}. *no program*: the
machine has none for a product of the method (docs/machine/programs.md)."""


def study_page(data: dict[str, Any], pictures: Mapping[str, Picture]) -> str:
    """Return the page of what `reports.work.study.gather` found; pictures: as `reports.pages.study_plots.draw` returns
    them."""
    cycles = prose(CYCLES.format(machine=data["machine"], origin=_origin(data)), bullet=True)
    parts = ["# Accuracy of the training methods", INTRODUCTION.format(cycles=cycles)]
    parts[-1] += f"\n{_arithmetic(data['recipes'])}\n{_sources(data['data'])}"
    losses = paired_losses(data["runs"])
    parts += ["## Against the paper", *_shown(pictures, "networks"), _paper(data, losses)]
    parts += ["## What the data can resolve", *_resolution(resolved(losses), data["data"])]
    if data["plan"]:
        parts += ["## What is missing", *missing(data["plan"])]
    if "speed" in pictures:
        parts += ["## Loss against speed-up", *_shown(pictures, "speed")]
    if "methods" in pictures or "patterns" in pictures:
        parts += ["## Methods and patterns", *_shown(pictures, "methods"), *_shown(pictures, "patterns")]
    for network in dict.fromkeys(row["network"] for row in data["rows"]):
        parts += [f"## {network}", _network([row for row in data["rows"] if row["network"] == network])]
    if data["ablations"]:
        parts += ["## Ablations of BDWP 2:8", prose(ABLATED), _ablations(data["ablations"])]
    if data.get("own"):
        parts += ["## Patterns by layer", _own(data["own"])]
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


def _own(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("network", "method", "patterns by layer", "against", "seeds", "gain, points", "SAT cycles", "and its")
    return markdown(
        header,
        [
            (
                *(row["network"], row["method"], f"`{row['patterns']}`", row["pattern"], str(row["seeds"])),
                _gain(row),
                *(str(row["cycles"]), str(row["uniform_cycles"])),
            )
            for row in rows
        ],
    )


def _shown(pictures: Mapping[str, Picture], name: str) -> list[str]:
    """Return a picture with its title and caption, nothing if there is none."""
    if name not in pictures:
        return []
    found = pictures[name]
    return [prose(f"**{found.title}.** {found.caption}"), f"![{found.title}]({found.file})"]


def _paper(data: dict[str, Any], losses: Sequence[Loss]) -> str:
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
    return f"{_beside_paper(rows, losses, data)}\n\n{markdown(header, lines)}"


def _beside_paper(rows: Sequence[dict[str, Any]], losses: Sequence[Loss], data: dict[str, Any]) -> str:
    """Return a sentence for each kind of data: the loss of BDWP 2:8, and on which side of the paper's it lies."""
    out = []
    named = {row["network"] for row in rows}
    shown = [loss for loss in losses if loss.network in named and (loss.method, loss.pattern) == (METHOD, PATTERN)]
    for source in dict.fromkeys(data["data"][loss.network]["source"] for loss in shown):
        found = [loss for loss in shown if data["data"][loss.network]["source"] == source]
        mean, half = average(found)
        width = "" if half is None else f" +- {half:.2f}"
        said = {"more": "more than", "less": "less than", "open": "not to be told from"}[
            beside(found, data["paper_loss"])
        ]
        networks = "1 network" if len(found) == 1 else f"the mean of {len(found)} networks"
        out.append(f"- On {source}: {_points(mean)}{width} points, {networks}; {said} the paper's.")
    text = (
        f"The paper reports a loss of {data['paper_loss']:.2f} points for BDWP 2:8 over its five, larger networks on "
        "other data. Here it is, averaged over the networks within each seed, with its 95 % confidence interval over "
        "the seeds:"
    )
    return "\n".join([prose(text), "", *(prose(line[2:], bullet=True) for line in out)])


def _resolution(found: Sequence[Resolved], sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the runs can tell apart, counted from them."""
    text = (
        "Computed from the runs. *shows from* is half of the median interval: a smaller loss cannot be told from none. "
        "*one label* is what a single label of the test split weighs. Pairs of methods are compared seed by seed, the "
        "95 % shared out among all pairs of a line; two methods that are not named as a pair cannot be told apart. "
        "Comparisons with dense are not shared out. "
        "A method whose seeds all lose the same counts as open: equal differences do not say how far others would lie "
        "from them."
    )
    header = ("network", "pattern", "seeds", "shows from", "one label", "worse than dense", "better", "open", "pairs")
    lines = [
        (
            *(item.network, item.pattern, str(item.seeds), "" if item.half is None else f"{item.half:.2f}"),
            f"{100 / sources[item.network]['test']:.2f}",
            *(", ".join(names) or "none" for names in (item.worse, item.better, item.open)),
            f"{len(item.pairs)} of {item.compared}",
        )
        for item in found
    ]
    if not lines:
        return ["Nothing: no method has dense runs beside it with two seeds."]
    pairs = [
        f"- {item.network} {item.pattern}: " + ", ".join(f"{better} before {worse}" for better, worse in item.pairs)
        for item in found
        if item.pairs
    ]
    told = ["\n".join(prose(line[2:], bullet=True) for line in pairs)] if pairs else []
    return [prose(text), markdown(header, lines), *told]


def missing(plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which runs of the plan are not there."""
    gone = sum(len(part["missing"]) for part in plan)
    total = sum(part["runs"] for part in plan)
    if not gone:
        return [f"Nothing: all {total} runs of the plan are there."]
    lines = [(part["title"], str(part["runs"] - len(part["missing"])), str(part["runs"])) for part in plan]
    text = (
        f"**{gone} of the {total} runs of the plan are not there yet.** The command goes on with them where it "
        "stopped; nothing on this page counts them."
    )
    return [prose(text), markdown(("part of the plan", "done", "planned"), lines)]


def _sources(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line for each data set: its source, what learns from it, and the best possible accuracy if known."""
    lines = []
    for source in dict.fromkeys(item["source"] for item in sources.values()):
        names = [name for name, item in sources.items() if item["source"] == source]
        best = next(item["best"] for item in sources.values() if item["source"] == source)
        known = "" if best is None else f"; best possible accuracy {best:.2%}"
        lines.append(prose(f"{', '.join(names)}: {source}{known}.", bullet=True))
    return "\n".join(lines)


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
        _interval(row),
        f"{row['macs_kept']:.3g}" + ("" if dense is None else f" ({row['macs_kept'] / dense:.0%})"),
        "no program" if sat["cycles"] is None else _spaced(sat["cycles"]),
        "" if sat["speedup"] is None else f"{sat['speedup']:.2f}",
        f"{sat['bound']:.2f}",
        _share(row["sad_ff"]),
        _share(row["sad_bp"]),
    )


def _ablations(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        *("network", "BDWP 2:8", "runs", "seeds", "accuracy", "loss", "gain", "multiply-adds", "SAT cycles"),
        *("masks FF", "masks BP"),
    )
    lines = [
        (
            row["network"],
            row["label"],
            " ".join(word for word in row["variant"].split() if word.startswith(("split=", "epochs="))) or "recipe",
            _seeds(row["run_seeds"]),
            f"{row['accuracy']:.2%} +- {100 * row['spread']:.2f}",
            _interval(row),
            _gain(row),
            "" if row.get("share") is None else f"{row['share']:.0%}",
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
            *("" if rate.get(method) is None else f"{rate[method]:.2%}" for method in ("dense", METHOD)),
            "recipe" if rate["lr"] == item["recipe"] else "",
        )
        for item in found
        for rate in item["rates"]
    ]
    other = [item["network"] for item in found if item["best"] not in (None, item["recipe"])]
    text = "Mean accuracy on the validation split over the seeds of `training.study.RATE_SEEDS`. The rate with the "
    text += "highest mean of both columns is the recipe's, of equals the lowest."
    if other:
        text += f" These choices would differ from the recipes: {', '.join(other)}."
    gone = {item["network"]: item["missing"] for item in found if item["missing"]}
    if gone:
        text += f" Runs that are missing: {', '.join(f'{count} of {name}' for name, count in gone.items())}."
    return [prose(text), markdown(("network", "learning rate", "dense", "BDWP 2:8", ""), lines)]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _interval(row: dict[str, Any]) -> str:
    """Return the loss of a row with half the width of its interval."""
    half = half_width(row["by_seed"]) if row["method"] != "dense" else None
    if row["loss_points"] is None:
        return UNPAIRED
    return _points(row["loss_points"]) + ("" if half is None else f" +- {half:.2f}")


def _gain(row: Mapping[str, Any]) -> str:
    """Return a gain with half the width of its interval; nothing where there is none to tell."""
    if row.get("gain") is None:
        return ""
    half = told_width(row["half_width"])
    return f"{row['gain']:+.2f}" + ("" if half is None else f" +- {half:.2f}")


def _points(value: float | None) -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return "" if value is None else f"{round(value, 2) + 0:.2f}"


def _share(value: float) -> str:
    return f"{value:.3%}" if value else ""


def _spaced(value: int) -> str:
    return f"{value:,}".replace(",", " ")
