# %% [markdown]
# # Bring a model
#
# A network of your own as an ONNX file: what a training step of it takes on SAT, dense and with BDWP at 2:8, layer by
# layer. From PyTorch, `torch.onnx.export` writes such a file, and the
# [tutorial for researchers](../tutorials/researcher.md) takes the model itself. Here the file is made by hand, so that
# the extra `onnx` is all that is needed.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

folder = Path(mkdtemp())
rng = np.random.default_rng(0)


def weight(name, *shape):
    """Return a random weight."""
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


# %% [markdown]
# Two convolutions and a classifier, for 8 images of 16 x 16 pixels and 32 channels:

# %%
nodes = [
    helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["c1"], ["r1"]),
    helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1], strides=[2, 2]),
    helper.make_node("Relu", ["c2"], ["r2"]),
    helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
    helper.make_node("Flatten", ["p"], ["f"]),
    helper.make_node("Gemm", ["f", "w3"], ["y"], name="head"),
]
inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 32, 16, 16])]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 10])]
weights = [weight("w1", 64, 32, 3, 3), weight("w2", 64, 64, 3, 3), weight("w3", 64, 10)]
graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "small.onnx")

# %% [markdown]
# `training_step` makes the products of forward pass, backward pass and weight gradients; `simulate` runs them, and the
# updates of the weights, as instructions of the machine. First layer and classifier stay dense unless told otherwise.

# %%
from nmsat.sim.api import simulate, training_step

sparse = simulate(training_step(folder / "small.onnx", "bdwp", "2:8"), "small")
dense = simulate(training_step(folder / "small.onnx", "dense"), "small")
print(f"dense {dense.cycles:,} cycles, BDWP 2:8 {sparse.cycles:,}, speed-up {dense.cycles / sparse.cycles:.2f}")
print(f"the multiply-adds alone allow {sparse.bound:.2f}")

# %% [markdown]
# Every cycle belongs to a product, a stage and a cause, and all three sums are the total:

# %%
for row in sparse.rows:
    print(f"{row.name:8} {row.stage:7} {row.cycles:8,} cycles")
print({cause: cycles for cause, cycles in sparse.causes.items() if cycles})

# %%
assert sum(sparse.causes.values()) == sum(row.cycles for row in sparse.rows) == sparse.cycles
assert 1 < dense.cycles / sparse.cycles < sparse.bound
