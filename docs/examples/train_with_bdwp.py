# %% [markdown]
# # Train with BDWP
#
# The same small network trained twice on handwritten digits, dense and with N:M sparse weights in the forward and in
# the backward pass, in NumPy and in the arithmetic of the hardware: accuracy, and the cycles of one step on SAT.

# %%
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.train import train
from nmsat.sim.api import simulate, training_step

# %% [markdown]
# A run is a `TrainConfig`; equal ones give equal bits. Two epochs are too few for the best accuracy and enough to see
# that both learn.

# %%
runs = {}
for method in ("dense", "bdwp"):
    config = TrainConfig(network="digits-sat", method=method, pattern="2:8", epochs=2, batch=16, warmup=0.5, seed=1)
    runs[method] = train(config)
    last = runs[method].epochs[-1]
    print(f"{method:5}  loss {last.test_loss:.3f}  accuracy {last.accuracy:.1%}")

# %% [markdown]
# What a step of that network takes on the machine, instructions and updates included. The layers are small, so waiting
# and updates weigh more than in a network of the paper.

# %%
steps = {method: simulate(training_step("digits-sat", method, "2:8"), "tiny") for method in runs}
for method, step in steps.items():
    print(f"{method:5}  {step.cycles:8,} cycles  " + "  ".join(f"{k} {v:,}" for k, v in step.by("stage").items()))

# %%
assert all(run.epochs[-1].accuracy > 0.7 for run in runs.values())
assert steps["bdwp"].cycles < steps["dense"].cycles
