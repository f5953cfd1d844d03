"""Compare the logits of DeepSpeech 0.1.0 by TensorFlow itself and by this package.

Both run the same frozen graph on the same input. TensorFlow is no dependency, so that this is in two halves,
for two environments, with a folder between them:

    pip install tensorflow-cpu tf_keras                       # in an environment of its own
    python tests/parity/deepspeech_tensorflow.py write FOLDER [--width 2048] [--steps 500]
    python tests/parity/deepspeech_tensorflow.py compare FOLDER      # where difftalk is installed

`write` builds the network with TensorFlow's own BasicLSTMCell and bidirectional_dynamic_rnn and random
weights, freezes it, and runs it. `compare` imports the graph and ends with status 1 where a logit differs by
more than 1e-4.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4


def write(folder: Path, width: int, steps: int) -> None:
    """graph.pb, and in run.npz its input `heard` (steps, 494) and its logits (steps, 29)."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 3 has no BasicLSTMCell
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    scaled = tf.initializers.variance_scaling(2.0)  # keeps the size of what passes through the ReLUs

    def dense(x: "tf.Tensor", layer: int, inputs: int, outputs: int) -> "tf.Tensor":
        weights = tf.get_variable(f"h{layer}", [inputs, outputs], initializer=scaled)
        bias = tf.get_variable(f"b{layer}", [outputs], initializer=tf.random_normal_initializer(stddev=0.5))
        return tf.add(tf.matmul(x, weights), bias)

    def clipped(x: "tf.Tensor") -> "tf.Tensor":
        return tf.minimum(tf.nn.relu(x), 20.0)

    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        heard = tf.placeholder(tf.float32, [None, None, 494], name="input_node")
        lengths = tf.placeholder(tf.int32, [None], name="input_lengths")
        count = tf.shape(heard)[0]
        x = tf.reshape(tf.transpose(heard, [1, 0, 2]), [-1, 494])
        for layer, inputs, outputs in ((1, 494, width), (2, width, width), (3, width, 2 * width)):
            x = clipped(dense(x, layer, inputs, outputs))
        cells = [tf.nn.rnn_cell.BasicLSTMCell(width, forget_bias=1.0, state_is_tuple=True) for _ in range(2)]
        both, _ = tf.nn.bidirectional_dynamic_rnn(
            *cells,
            inputs=tf.reshape(x, [-1, count, 2 * width]),
            dtype=tf.float32,
            time_major=True,
            sequence_length=lengths,
        )
        x = clipped(dense(tf.reshape(tf.concat(both, 2), [-1, 2 * width]), 5, 2 * width, width))
        tf.reshape(dense(x, 6, width, 29), [-1, count, 29], name="logits")
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            if variable.name.endswith("basic_lstm_cell/bias:0"):
                session.run(variable.assign(tf.random_normal(variable.shape, stddev=0.5)))
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["logits"])

    # Large enough for some sums to reach the upper clip, small enough for the gates to stay half open.
    given = np.random.default_rng(1).normal(0, 4, (1, steps, 494)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(frozen, name="deepspeech")
        logits = session.run(
            "deepspeech/logits:0",
            {"deepspeech/input_node:0": given, "deepspeech/input_lengths:0": [steps]},
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.pb").write_bytes(frozen.SerializeToString())
    np.savez(folder / "run.npz", heard=given[0], logits=logits[:, 0], tensorflow=tf.version.VERSION)
    size = (folder / "graph.pb").stat().st_size / 1e6
    print(f"TensorFlow {tf.version.VERSION}: {size:.0f} MB of graph, {steps} steps in {folder}")


def compare(folder: Path) -> bool:
    """Print how far the two are apart, and say whether that is rounding."""
    import torch

    from difftalk.speech.deepspeech import DeepSpeech, import_graph

    run = np.load(folder / "run.npz")
    network = DeepSpeech(import_graph(folder / "graph.pb")).eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(run["heard"])).numpy()
    difference = float(np.abs(logits - run["logits"]).max())
    print(
        f"width {network.ahead.hidden_size}: largest difference to TensorFlow {run['tensorflow']} "
        f"{difference:.2e} over {logits.size} logits of deviation {logits.std():.2f}"
    )
    return logits.shape == run["logits"].shape and difference <= TOLERANCE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("half", choices=["write", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    if given.half == "write":
        write(given.folder, given.width, given.steps)
    else:
        sys.exit(0 if compare(given.folder) else 1)
