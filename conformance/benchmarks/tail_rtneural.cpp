// The nanoseconds of each of a number of steps of RTNeural's GRU, to a file; the last outputs to stdout. Sizes are
// macros, because RTNeural's faster models have them as template arguments.
//
//     tail_rtneural MODEL.json STEPS TIMES.bin
#include <RTNeural/RTNeural.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

int main(int, char** arguments) {
    RTNeural::ModelT<float, INPUT, HIDDEN, RTNeural::GRULayerT<float, INPUT, HIDDEN>> model;
    std::ifstream file(arguments[1]);
    model.parseJson(file);
    model.reset();
    const long steps = std::atol(arguments[2]);
    std::vector<std::int64_t> times(steps);
    alignas(64) float x[INPUT];
    for (float& value : x) value = 0.5f;
    for (long step = 0; step < steps; ++step) {
        const auto start = std::chrono::steady_clock::now();
        model.forward(x);
        times[step] = (std::chrono::steady_clock::now() - start).count();
    }
    std::ofstream(arguments[3], std::ios::binary)
        .write(reinterpret_cast<const char*>(times.data()), steps * sizeof(std::int64_t));
    for (int unit = 0; unit < HIDDEN; ++unit) std::printf("%.9g ", model.getOutputs()[unit]);
}
