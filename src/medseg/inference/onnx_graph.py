"""Which ONNX graphs are run: those of the kind that `medseg export` writes, and no others.

An ONNX file is a program. One with loops may never end, one with huge constants fills the memory, one with custom
operators or data elsewhere brings other files in. ONNX Runtime runs part of a graph when it opens it.
"""

import math
from collections.abc import Iterable

import onnx

OPSET = 17  # ONNX operator set
MOST_BYTES = 2**31 - 1  # of a file: more is none, by the limit of its format
MOST_VALUES = 2**16  # of any tensor inside, for each pixel of the input; the widest network has 4096 maps
_SIDE = 64  # pixels, of the input for which tensors are measured, where any size is taken
_NAMED = 1024  # values of a tensor that shapes may depend on; weights have more

# Of the default domain. Those of networks, their padding and their resizing; each takes as long as its tensors are
# large, and holds no graph of its own.
_LISTED = """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish
    Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max
    MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin
    ReduceSum Relu Reshape Resize Round ScatterND Selu Shape Sigmoid Sign Slice Softmax Softplus SpaceToDepth Split
    Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_LISTED.split())


def graph_fault(model: onnx.ModelProto) -> str:
    """Why a model is not run; empty where it is one of the kind that `medseg export` writes."""
    if {(opset.domain, opset.version) for opset in model.opset_import} != {("", OPSET)} or model.functions:
        return f"it has operators beyond those of ONNX's own set {OPSET}"
    if foreign := {node.op_type for node in model.graph.node if node.op_type not in OPERATORS or node.domain}:
        return f"it has operators that no network here has: {', '.join(sorted(foreign)[:5])}"
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return "it has graphs inside its graph"
    tensors = [*model.graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))]
    tensors += [tensor for attribute in attributes for tensor in attribute.tensors]
    sparse = any(attribute.HasField("sparse_tensor") or attribute.sparse_tensors for attribute in attributes)
    if sparse or model.graph.sparse_initializer:
        return "it has sparse tensors, which no network here has"
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in tensors):
        return "its weights do not lie in the file"
    return _memory_fault(model)


def _memory_fault(model: onnx.ModelProto) -> str:
    """Whether a tensor inside is larger than that of any network, for a small input.

    Only tensors whose shapes follow from the graph and its input are measured, so all that ONNX Runtime could make on
    opening it.
    """
    sketch = onnx.ModelProto()
    sketch.CopyFrom(model)
    for tensor in sketch.graph.initializer:
        if math.prod(tensor.dims) > _NAMED:
            tensor.ClearField("raw_data")  # its size is enough, and weights may be large
    pixels = 1
    for place in sketch.graph.input:
        dims = place.type.tensor_type.shape.dim
        for position, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                dim.dim_value = 1 if position == 0 else _SIDE
        pixels = max(pixels, _count(dims) // max(1, dims[1].dim_value if len(dims) > 1 else 1))
    del sketch.graph.value_info[:]  # what the file says of its own tensors
    try:
        inferred = onnx.shape_inference.infer_shapes(sketch, data_prop=True)
    except Exception as error:  # its exceptions share no base class
        return f"the shapes of its tensors don't fit together: {str(error).strip().splitlines()[0]}"
    for value in inferred.graph.value_info:
        if _count(value.type.tensor_type.shape.dim) > MOST_VALUES * pixels:
            return f"the tensor {value.name} would be larger than any of a network here"
    return ""


def _count(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> int:
    """The number of values; unknown sides count as 1."""
    return math.prod(max(1, dim.dim_value) for dim in dims)
