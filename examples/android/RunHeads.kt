package org.example.heads

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.roundToInt
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor

/**
 * Runs a .tflite file that kmtl exported, by the names of its inputs and heads.
 *
 * Values go in and come out as floats also where the file's are integers: those are converted by
 * their scale and zero point. Sizes must be fixed, as they are unless `--batch_size=0` was asked.
 *
 * ```
 * RunHeads(File(context.filesDir, "model.tflite")).use { model ->
 *     val answers = model.run(mapOf("image" to pixels))
 *     val depth: FloatArray = answers.getValue("depth")
 * }
 * ```
 */
class RunHeads(model: File, threads: Int = 4) : AutoCloseable {
    private val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(threads))

    init {
        require(SIGNATURE in interpreter.signatureKeys) {
            "A file must have the signature $SIGNATURE. Received: $model"
        }
        interpreter.allocateTensors()
    }

    /** Head -> its values, row by row, for values by input name. */
    fun run(inputs: Map<String, FloatArray>): Map<String, FloatArray> {
        val names = interpreter.getSignatureInputs(SIGNATURE).toSet()
        require(inputs.keys == names) { "Inputs must be $names. Received: ${inputs.keys}" }
        val buffers = inputs.mapValues { (name, values) ->
            val tensor = interpreter.getInputTensorFromSignature(name, SIGNATURE)
            require(values.size == tensor.numElements()) {
                "Input $name must hold ${tensor.numElements()} values. Received: ${values.size}"
            }
            encode(values, tensor)
        }
        val heads = interpreter.getSignatureOutputs(SIGNATURE).associateWith { head ->
            interpreter.getOutputTensorFromSignature(head, SIGNATURE)
        }
        val room = heads.mapValues { (_, tensor) -> roomFor(tensor) }
        interpreter.runSignature(buffers, room, SIGNATURE)
        return heads.mapValues { (head, tensor) -> decode(room.getValue(head), tensor) }
    }

    override fun close() = interpreter.close()

    private companion object {
        const val SIGNATURE = "serving_default"

        fun roomFor(tensor: Tensor): ByteBuffer =
            ByteBuffer.allocateDirect(tensor.numBytes()).order(ByteOrder.nativeOrder())

        fun encode(values: FloatArray, tensor: Tensor): ByteBuffer {
            val buffer = roomFor(tensor)
            val type = tensor.dataType()
            for (value in values) {
                when (type) {
                    DataType.FLOAT32 -> buffer.putFloat(value)
                    DataType.INT32 -> buffer.putInt(value.roundToInt())
                    DataType.INT16 -> buffer.putShort(steps(value, tensor, -32768, 32767).toShort())
                    DataType.INT8 -> buffer.put(steps(value, tensor, -128, 127).toByte())
                    DataType.UINT8 -> buffer.put(steps(value, tensor, 0, 255).toByte())
                    else -> error("Types must be float32 or integers. Received: $type")
                }
            }
            buffer.rewind()
            return buffer
        }

        /** The integer that stands for a value; of a tensor without a scale, its rounded value. */
        fun steps(value: Float, tensor: Tensor, least: Int, most: Int): Int {
            val (scale, zeroPoint) = meaning(tensor)
            val steps = Math.rint((value / scale).toDouble()) + zeroPoint
            return steps.coerceIn(least.toDouble(), most.toDouble()).toInt()
        }

        fun decode(buffer: ByteBuffer, tensor: Tensor): FloatArray {
            buffer.rewind()
            val (scale, zeroPoint) = meaning(tensor)
            val type = tensor.dataType()
            return FloatArray(tensor.numElements()) {
                when (type) {
                    DataType.FLOAT32 -> buffer.getFloat()
                    DataType.INT32 -> buffer.getInt().toFloat()
                    DataType.INT16 -> (buffer.getShort() - zeroPoint) * scale
                    DataType.INT8 -> (buffer.get() - zeroPoint) * scale
                    DataType.UINT8 -> ((buffer.get().toInt() and 0xFF) - zeroPoint) * scale
                    else -> error("Types must be float32 or integers. Received: $type")
                }
            }
        }

        fun meaning(tensor: Tensor): Pair<Float, Int> {
            val quantization = tensor.quantizationParams()
            val scale = quantization.scale
            return if (scale == 0f) 1f to 0 else scale to quantization.zeroPoint
        }
    }
}
