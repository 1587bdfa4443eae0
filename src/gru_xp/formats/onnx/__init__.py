"""ONNX in and out (https://onnx.ai/onnx/operators/onnx__GRU.html), and onnxruntime as the runtime.

`constants` finds the numbers of a graph without trusting it, `nodes` reads one GRU node, `stacks` joins the nodes that
are layers of one GRU, `export` writes a model, `runtime` runs nodes with onnxruntime, `format` is the door.
"""
