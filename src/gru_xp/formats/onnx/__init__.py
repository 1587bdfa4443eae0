"""ONNX in and out (https://onnx.ai/onnx/operators/onnx__GRU.html), and onnxruntime as the runtime.

`constants` finds the numbers of a graph without trusting it, `quantized` multiplies integers out, `narrow` finds
weights in 8 and 16 bits among them, `nodes` reads one GRU node, `stacks` joins the nodes that are layers of one GRU,
`written_out` finds GRUs that are no nodes, `export` writes a model, `runtime` runs nodes with onnxruntime, `format`
joins them.
"""
