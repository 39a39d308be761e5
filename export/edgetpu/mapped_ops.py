"""What is published about the Edge TPU compiler's operations, as data.

`SUPPORTED` and `NOTES` are Google's table "Supported operations" on the page "TensorFlow models
on the Edge TPU" (coral.ai/docs/edgetpu/models-intro), for the newest runtime, 14. Its limits
that can be checked are functions in `rules.py`.

`NEWEST_VERSIONS` is not on that page. The compiler, 16.0 of 2021, is closed and frozen; it
refuses a whole file for one operation that is newer than the TensorFlow Lite inside it, also
where the CPU would compute it ("Didn't find op for builtin opcode 'QUANTIZE' version '3'", and
so for CONV_2D 6, TRANSPOSE_CONV 4, EXP 2: issues 879, 631, 845 of google-coral/edgetpu and 71
of google-coral/libedgetpu). The table holds the newest versions that TensorFlow 2.5 knows, the
release that the runtime of the same year is built with, from TensorFlow's own list
(lite/tools/versioning/runtime_version.cc). That 16.0 knows just these could not be verified
here; every reported refusal fits.
"""

SUPPORTED = frozenset(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED
    L2_NORMALIZATION LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE
    REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
    """.split()
)

# Limits that the page gives without a number: an operation that maps by all that can be checked.
NOTES = {
    "RESHAPE": "certain reshapes of large tensors might not be mapped",
    "RESIZE_BILINEAR": "might not be mapped, depending on its size, to avoid a loss in precision",
    "RESIZE_NEAREST_NEIGHBOR": (
        "might not be mapped, depending on its size, to avoid a loss in precision"
    ),
}

_BY_VERSION = {
    1: """
        ADD_N CALL_ONCE CAST CEIL COMPLEX_ABS CONV_3D COS CUMSUM DENSIFY ELU
        EMBEDDING_LOOKUP_SPARSE EXP EXPAND_DIMS FLOOR FLOOR_MOD HARD_SWISH HASHTABLE
        HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE IF IMAG L2_POOL_2D
        LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION
        MATRIX_DIAG MATRIX_SET_DIAG NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT
        POW PRELU RANGE RANK REAL REDUCE_ANY REDUCE_PROD RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE
        RFFT2D ROUND SCATTER_ND SEGMENT_SUM SELECT_V2 SHAPE SIN SKIP_GRAM SQRT SQUARE UNIQUE
        WHERE WHILE ZEROS_LIKE
        """,
    2: """
        ARG_MAX ARG_MIN DEPTH_TO_SPACE DIV FAKE_QUANT FLOOR_DIV GREATER GREATER_EQUAL
        L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOG_SOFTMAX MIRROR_PAD QUANTIZE RSQRT SELECT
        SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE SUM TILE TOPK_V2
        """,
    3: """
        ABS ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND BIDIRECTIONAL_SEQUENCE_LSTM
        BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO CONCATENATION EMBEDDING_LOOKUP EQUAL FILL
        GATHER_ND LOGISTIC MAX_POOL_2D MEAN NOT_EQUAL PACK PAD PADV2 REDUCE_MAX REDUCE_MIN RELU
        RELU6 REVERSE_V2 RNN SOFTMAX SPACE_TO_BATCH_ND SPARSE_TO_DENSE TANH TRANSPOSE_CONV
        UNIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_RNN
        """,
    4: """
        BATCH_MATMUL DEQUANTIZE LSTM MAXIMUM MINIMUM MUL RESIZE_BILINEAR
        RESIZE_NEAREST_NEIGHBOR SPLIT SVDF UNPACK
        """,
    5: "CONV_2D GATHER SLICE STRIDED_SLICE SUB TRANSPOSE",
    6: "DEPTHWISE_CONV_2D",
    9: "FULLY_CONNECTED",
}

NEWEST_VERSIONS = {
    name: version for version, names in _BY_VERSION.items() for name in names.split()
}
