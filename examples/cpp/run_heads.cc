// Runs a .tflite file that kmtl exported, and prints the answer of each head by its name.
//
//   run_heads MODEL.tflite [INPUT=FILE ...]
//
// A FILE holds the real values of an input as raw float32 (int32 for an input of int32), in this
// machine's byte order. An input without a file gets 0, 0.01, ... 0.99, 0, ...; zeros if int32.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "litert_c.h"

namespace {

const std::string kSignature = "serving_default";

void Check(LiteRtStatus status, const std::string& what) {
  if (status)
    throw std::runtime_error("LiteRT must " + what + ". Received: status " +
                             std::to_string(status));
}

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    destroy(object);
  }
};
template <typename Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

// Calls a function of LiteRT that makes an object, which ends with the returned owner.
template <typename Handle, auto destroy, typename Create, typename... Arguments>
Owned<Handle, destroy> Make(const std::string& what, Create create, Arguments... arguments) {
  Handle handle = nullptr;
  Check(create(arguments..., &handle), what);
  return Owned<Handle, destroy>(handle);
}

// An input or a head.
struct Port {
  std::string name;
  LiteRtRankedTensorType type;
  LiteRtQuantizationPerTensor quantization;  // scale 0: values are not quantised
  size_t size;
  Owned<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer> buffer;
};

Port MakePort(const std::string& name, LiteRtTensor tensor, LiteRtEnvironment environment,
              LiteRtTensorBufferRequirements requirements) {
  Port port{name, {}, {0, 0}, 1, nullptr};
  Check(LiteRtGetRankedTensorType(tensor, &port.type), "know the shape of " + name);
  for (unsigned axis = 0; axis < port.type.rank; ++axis) {
    if (port.type.dimensions[axis] < 0)
      throw std::runtime_error("Sizes must be fixed, by --batch_size of kmtl export. Received: " +
                               name + " of any size along axis " + std::to_string(axis));
    port.size *= port.type.dimensions[axis];
  }
  LiteRtQuantizationTypeId kind{};
  Check(LiteRtGetQuantizationTypeId(tensor, &kind), "know the type of " + name);
  if (kind == kLiteRtQuantizationPerTensor)
    Check(LiteRtGetPerTensorQuantization(tensor, &port.quantization), "know a scale of " + name);
  port.buffer = Make<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer>(
      "make room for " + name, LiteRtCreateManagedTensorBufferFromRequirements, environment,
      &port.type, requirements);
  return port;
}

// Calls `act` with the memory of a port, as a pointer to what it holds.
template <typename Act>
void WithMemory(const Port& port, LiteRtTensorBufferLockMode mode, Act act) {
  void* memory = nullptr;
  Check(LiteRtLockTensorBuffer(port.buffer.get(), &memory, mode), "show " + port.name);
  const Owned<LiteRtTensorBuffer, LiteRtUnlockTensorBuffer> lock(port.buffer.get());
  switch (port.type.element_type) {
    case kLiteRtElementTypeFloat32:
      return act(static_cast<float*>(memory));
    case kLiteRtElementTypeInt32:
      return act(static_cast<int32_t*>(memory));
    case kLiteRtElementTypeInt16:
      return act(static_cast<int16_t*>(memory));
    case kLiteRtElementTypeInt8:
      return act(static_cast<int8_t*>(memory));
    case kLiteRtElementTypeUInt8:
      return act(static_cast<uint8_t*>(memory));
  }
  throw std::runtime_error("Types must be float32, int32, int16, int8 or uint8. Received: " +
                           port.name + " of type " + std::to_string(port.type.element_type));
}

// The values of a file, or generated ones; float and int32_t alike take four bytes.
template <typename T>
std::vector<T> ReadValues(const Port& port, const std::string& path) {
  std::vector<T> values(port.size);
  if (path.empty()) {
    for (size_t i = 0; i < port.size; ++i) values[i] = static_cast<T>((i % 100) / 100.0f);
    return values;
  }
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  if (!file || bytes.size() != port.size * sizeof(T))
    throw std::runtime_error("A file for input " + port.name + " must hold " +
                             std::to_string(port.size * sizeof(T)) + " bytes. Received: " + path +
                             " with " + std::to_string(bytes.size()));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

void Fill(const Port& port, const std::string& path) {
  WithMemory(port, kLiteRtTensorBufferLockModeWrite, [&](auto* memory) {
    using T = std::remove_pointer_t<decltype(memory)>;
    const float scale = port.quantization.scale;
    const float zero_point = static_cast<float>(port.quantization.zero_point);
    if constexpr (std::is_same_v<T, int32_t>) {
      const std::vector<int32_t> values = ReadValues<int32_t>(port, path);
      std::copy(values.begin(), values.end(), memory);
    } else {
      const std::vector<float> values = ReadValues<float>(port, path);
      std::transform(values.begin(), values.end(), memory, [&](float value) {
        if (scale == 0) return static_cast<T>(value);
        const float steps = std::nearbyint(value / scale) + zero_point;
        return static_cast<T>(std::clamp<float>(steps, std::numeric_limits<T>::lowest(),
                                                std::numeric_limits<T>::max()));
      });
    }
  });
}

void Print(const Port& port) {
  std::printf("%s ", port.name.c_str());
  for (unsigned axis = 0; axis < port.type.rank; ++axis)
    std::printf("%s%d", axis ? "x" : "", port.type.dimensions[axis]);
  WithMemory(port, kLiteRtTensorBufferLockModeRead, [&](const auto* memory) {
    const auto [scale, zero_point] = port.quantization;
    for (size_t i = 0; i < port.size; ++i) {
      const double value = memory[i];
      std::printf(" %.9g", scale == 0 ? value : (value - zero_point) * scale);
    }
  });
  std::printf("\n");
}

void Run(const std::string& path, std::map<std::string, std::string> files) {
  const auto environment = Make<LiteRtEnvironment, LiteRtDestroyEnvironment>(
      "start", LiteRtCreateEnvironment, 0, nullptr);
  const auto model = Make<LiteRtModel, LiteRtDestroyModel>(
      "read " + path, LiteRtCreateModelFromFile, environment.get(), path.c_str());
  const auto options =
      Make<LiteRtOptions, LiteRtDestroyOptions>("make options", LiteRtCreateOptions);
  Check(LiteRtSetOptionsHardwareAccelerators(options.get(), kLiteRtHwAcceleratorCpu), "run here");
  const auto compiled = Make<LiteRtCompiledModel, LiteRtDestroyCompiledModel>(
      "compile " + path, LiteRtCreateCompiledModel, environment.get(), model.get(), options.get());

  size_t signatures = 0, index = 0, num_inputs = 0, num_heads = 0;
  LiteRtSignature signature = nullptr;
  const char* name = nullptr;
  Check(LiteRtGetNumModelSignatures(model.get(), &signatures), "count the signatures");
  for (; index < signatures; ++index) {
    Check(LiteRtGetModelSignature(model.get(), index, &signature), "find a signature");
    Check(LiteRtGetSignatureKey(signature, &name), "name a signature");
    if (name == kSignature) break;
  }
  if (index == signatures)
    throw std::runtime_error("A file must have signature " + kSignature + ". Received: " + path);
  Check(LiteRtGetNumSignatureInputs(signature, &num_inputs), "count the inputs");
  Check(LiteRtGetNumSignatureOutputs(signature, &num_heads), "count the heads");

  std::vector<Port> inputs, heads;
  LiteRtTensor tensor = nullptr;
  LiteRtTensorBufferRequirements needs = nullptr;
  for (size_t i = 0; i < num_inputs; ++i) {
    Check(LiteRtGetSignatureInputName(signature, i, &name), "name an input");
    Check(LiteRtGetSignatureInputTensor(signature, name, &tensor), "find an input");
    Check(LiteRtGetCompiledModelInputBufferRequirements(compiled.get(), index, i, &needs), "plan");
    inputs.push_back(MakePort(name, tensor, environment.get(), needs));
    Fill(inputs.back(), files[name]);
    files.erase(name);
  }
  if (!files.empty())
    throw std::runtime_error("Files must be for inputs that the model has. Received: one for " +
                             files.begin()->first);
  for (size_t i = 0; i < num_heads; ++i) {
    Check(LiteRtGetSignatureOutputName(signature, i, &name), "name a head");
    Check(LiteRtGetSignatureOutputTensor(signature, name, &tensor), "find a head");
    Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled.get(), index, i, &needs), "plan");
    heads.push_back(MakePort(name, tensor, environment.get(), needs));
  }
  std::vector<LiteRtTensorBuffer> in, out;
  for (const Port& input : inputs) in.push_back(input.buffer.get());
  for (const Port& head : heads) out.push_back(head.buffer.get());
  Check(LiteRtRunCompiledModel(compiled.get(), index, in.size(), in.data(), out.size(), out.data()),
        "run " + path);
  for (const Port& head : heads) Print(head);
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> files;
  bool usage = argc < 2;
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    if (equals >= argument.size() - 1)
      usage = true;
    else
      files[argument.substr(0, equals)] = argument.substr(equals + 1);
  }
  if (usage) {
    std::fprintf(stderr, "usage: run_heads MODEL.tflite [INPUT=FILE ...]\n");
    return 2;
  }
  try {
    Run(argv[1], std::move(files));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_heads: %s\n", error.what());
    return 1;
  }
}
