# %% [markdown]
# # Sweep and plot
#
# How large an array pays for ResNet-18? A sweep over its rows, with the closed-form estimate, as a table and as a
# picture. The command is the same as at a terminal; the results are read from its Parquet file.

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import pyarrow.parquet as pq

import nmsat

folder = Path(mkdtemp())
plan = folder / "rows.toml"
plan.write_text(
    """\
config = "vcu1525"
network = "resnet18"
batch = 16
method = "bdwp"
pattern = ["2:4", "2:8"]

[set]
rows = { from = 8, to = 32, times = 2 }
""",
    encoding="utf-8",
)

# %% [markdown]
# `--estimate` leaves out the exact runs of the best machines, which take minutes.

# %%
code = nmsat.main(["sweep", str(plan), "--out", str(folder / "sweep"), "--estimate", "--quiet"])
assert code == 0

# %%
points = pq.read_table(folder / "sweep" / "points.parquet").to_pylist()
for point in points:
    print(f"{point['pattern']}  {point['rows']:2} rows  {point['cycles']:>11,} cycles  {point['lut']:>7,} LUT")

# %% [markdown]
# Cycles against the modelled LUTs of the array: twice the rows are not quite twice as fast.

# %%
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for pattern in ("2:4", "2:8"):
    chosen = sorted((p["lut"], p["cycles"]) for p in points if p["pattern"] == pattern)
    axes.plot([lut for lut, _ in chosen], [cycles / 1e6 for _, cycles in chosen], marker="o", label=pattern)
axes.set(xlabel="LUT of the array (modelled)", ylabel="million cycles of a step (estimate)", xlim=(0, None))
axes.set_ylim(bottom=0)
axes.legend(title="BDWP")
figure.savefig(folder / "rows.svg")
print(folder / "rows.svg")

# %%
assert len(points) == 6
for pattern in ("2:4", "2:8"):
    cycles = {point["rows"]: point["cycles"] for point in points if point["pattern"] == pattern}
    falling = [cycles[rows] for rows in (8, 16, 32)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] < 4 * falling[-1]
