// Print the label of an image, whether every image within the radius provably gets it, and the proven margin.
//
//     g++ -std=c++17 -O2 guard.cpp -I$ORT/include -L$ORT/lib -Wl,-rpath,$ORT/lib -lonnxruntime -o guard
//     ./guard guard.onnx image.pgm
//
// $ORT is an unpacked release of onnxruntime, 1.12 or later (onnxruntime-linux-x64-VERSION.tgz of its releases on
// GitHub). The library may also be that of the Python package: libonnxruntime.so.VERSION in its folder onnxruntime/capi,
// linked as $ORT/lib/libonnxruntime.so and libonnxruntime.so.1. The image is a binary PGM or PPM of 8 bits, without
// comments, and the size that the guard reads. A guard of several radii gets a line each.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    std::array<std::int64_t, 4> shape;  // batch, channels, height, width
    std::vector<float> pixels;          // in [0, 1]
};

Image read_image(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::int64_t width = 0, height = 0, most = 0;
    file >> kind >> width >> height >> most;
    file.get();  // one white space stands before the values
    if (!file || (kind != "P5" && kind != "P6") || most != 255 || width < 1 || height < 1 || width > 65536 ||
        height > 65536)
        throw std::runtime_error(std::string(path) + ": expected a binary PGM or PPM of 8 bits, without comments");
    const std::int64_t channels = kind == "P6" ? 3 : 1, size = width * height;
    std::vector<char> values(static_cast<std::size_t>(channels * size));
    if (!file.read(values.data(), channels * size))
        throw std::runtime_error(std::string(path) + " ends before its last pixel");
    Image image{{1, channels, height, width}, std::vector<float>(values.size())};
    for (std::int64_t pixel = 0; pixel < size; ++pixel)
        for (std::int64_t channel = 0; channel < channels; ++channel) {
            const auto level = static_cast<unsigned char>(values[pixel * channels + channel]);
            image.pixels[channel * size + pixel] = static_cast<float>(level) / 255.0f;
        }
    return image;
}

int main(int count, char** words) try {
    if (count != 3) throw std::runtime_error("expected two arguments: guard.onnx image.pgm");
    Image image = read_image(words[2]);
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "guard");
    Ort::Session session(environment, words[1], Ort::SessionOptions{nullptr});
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto input = Ort::Value::CreateTensor<float>(memory, image.pixels.data(), image.pixels.size(),
                                                       image.shape.data(), image.shape.size());
    const char* inputs[] = {"image"};
    const char* outputs[] = {"label", "certified", "margin"};
    const auto found = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 3);
    const auto label = found[0].GetTensorData<std::int64_t>()[0];
    const auto* certified = found[1].GetTensorData<bool>();
    const auto* margins = found[2].GetTensorData<float>();
    const std::size_t radii = found[2].GetTensorTypeAndShapeInfo().GetElementCount();
    for (std::size_t radius = 0; radius < radii; ++radius)
        std::printf("label %lld, certified %s, margin %.4f\n", static_cast<long long>(label),
                    certified[radius] ? "yes" : "no", static_cast<double>(margins[radius]));
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
