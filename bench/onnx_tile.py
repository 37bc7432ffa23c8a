#!/usr/bin/env python3
"""One 512 px tile through an encoder of SmolVLM-256M's shape in ONNX Runtime, for bench/cpu.py to stand beside ours (`--onnx-python`).

    bench/onnx_tile.py [--int8] [--tiles N] [--threads N] [--repeat N]        needs onnx and onnxruntime; prints JSON like bench_tile

Random weights: a patch convolution of 16 px, 12 layers of 768 (12 heads, MLP 3072, tanh GELU), the last LayerNorm, pixel shuffle by 4 and the connector to
576, as an export of the reference model has them. --int8 is the library's own dynamic quantisation of every product with a weight.
"""
import argparse
import json
import pathlib
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

PX, PATCH, HIDDEN, HEADS, MLP, LAYERS, SHUFFLE, OUT = 512, 16, 768, 12, 3072, 12, 4, 576
SIDE = PX // PATCH
POSITIONS, HEAD = SIDE * SIDE, HIDDEN // HEADS


class Graph:
    def __init__(self):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(1)

    def op(self, kind, *inputs, **attributes):
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, array):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, *shape, fan_in=None):
        amplitude = (3.0 / (fan_in or shape[0])) ** 0.5
        return self.constant(self.rng.uniform(-amplitude, amplitude, shape).astype(np.float32))

    def vector(self, n, centre=0.0):
        return self.constant((centre + 0.02 * self.rng.standard_normal(n)).astype(np.float32))

    def linear(self, x, n_in, n_out):
        return self.op("Add", self.op("MatMul", x, self.weight(n_in, n_out)), self.vector(n_out))

    def norm(self, x):
        return self.op("LayerNormalization", x, self.vector(HIDDEN, 1.0), self.vector(HIDDEN), axis=-1, epsilon=1e-6)

    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.constant(np.array(shape, np.int64)))

    def heads(self, x, perm):
        return self.op("Transpose", self.reshape(x, 0, POSITIONS, HEADS, HEAD), perm=perm)

    def attention(self, x):
        q, k, v = (self.linear(x, HIDDEN, HIDDEN) for _ in range(3))
        scores = self.op("MatMul", self.heads(q, [0, 2, 1, 3]), self.heads(k, [0, 2, 3, 1]))
        p = self.op("Softmax", self.op("Mul", scores, self.constant(np.float32(HEAD ** -0.5))), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", p, self.heads(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return self.linear(self.reshape(mixed, 0, POSITIONS, HIDDEN), HIDDEN, HIDDEN)

    def layer(self, x):
        x = self.op("Add", x, self.attention(self.norm(x)))
        up = self.op("Gelu", self.linear(self.norm(x), HIDDEN, MLP), approximate="tanh")
        return self.op("Add", x, self.linear(up, MLP, HIDDEN))

    def shuffle(self, x):
        s, small = SHUFFLE, SIDE // SHUFFLE
        x = self.op("Transpose", self.reshape(x, 0, SIDE, small, HIDDEN * s), perm=[0, 2, 1, 3])
        x = self.op("Transpose", self.reshape(x, 0, small, small, HIDDEN * s * s), perm=[0, 2, 1, 3])
        return self.reshape(x, 0, small * small, HIDDEN * s * s)

    def encoder(self):
        x = self.op("Conv", "pixels", self.weight(HIDDEN, 3, PATCH, PATCH, fan_in=3 * PATCH * PATCH), self.vector(HIDDEN), strides=[PATCH, PATCH])
        x = self.op("Transpose", self.reshape(x, 0, HIDDEN, POSITIONS), perm=[0, 2, 1])
        x = self.op("Add", x, self.constant((0.02 * self.rng.standard_normal((1, POSITIONS, HIDDEN))).astype(np.float32)))
        for _ in range(LAYERS):
            x = self.layer(x)
        wide = HIDDEN * SHUFFLE * SHUFFLE
        self.nodes.append(helper.make_node("MatMul", [self.shuffle(self.norm(x)), self.weight(wide, OUT)], ["rows"]))
        graph = helper.make_graph(self.nodes, "encoder", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, PX, PX])],
                                  [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", None, OUT])], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def main():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--int8", action="store_true")
    p.add_argument("--tiles", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=3)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "encoder.onnx"
        onnx.save(Graph().encoder(), path)
        if args.int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic
            quantize_dynamic(path, path.with_name("int8.onnx"), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
            path = path.with_name("int8.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(2).uniform(-1, 1, (args.tiles, 3, PX, PX)).astype(np.float32)
        session.run(None, {"pixels": pixels})
        for _ in range(args.repeat):
            begin = time.perf_counter()
            rows = session.run(None, {"pixels": pixels})[0]
            ms = 1000 * (time.perf_counter() - begin) / args.tiles
            assert rows.shape == (args.tiles, POSITIONS // SHUFFLE ** 2, OUT) and np.isfinite(rows).all()
            print(json.dumps({"tiles": args.tiles, "ms_per_tile": round(ms, 3)}), flush=True)


if __name__ == "__main__":
    main()
