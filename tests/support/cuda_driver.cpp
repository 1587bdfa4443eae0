// A libcuda for a machine without a GPU: what gru_xp_cuda.driver calls, over the host's memory. A module's kernels are
// those of the host builds that GRU_XP_TEST_KERNELS names; a launch runs them and is written down on stderr.
//
// NVIDIA's cuda-bindings load it as they load the real one, so the way through them is the real one.

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

typedef int Status;
enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_IMAGE = 200, NOT_FOUND = 500 };

static char primary, module_;
static void* current = nullptr;

struct Kernel {
    std::string name;
    void (*run)();
    void (*launch)(void (*)(), unsigned, unsigned, unsigned, unsigned, const long long*, int);
};

extern "C" {

Status cuInit(unsigned) { return SUCCESS; }

Status cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

Status cuDeviceGet(int* device, int index) { return *device = index, index == 0 ? SUCCESS : INVALID_VALUE; }

Status cuDeviceGetAttribute(int* value, int attribute, int) {
    if (attribute != 75 && attribute != 76) return INVALID_VALUE;
    return *value = attribute == 75 ? 9 : 0, SUCCESS;  // compute capability 9.0
}

Status cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary, SUCCESS; }

Status cuCtxPushCurrent_v2(void* context) {
    if (context != &primary || current != nullptr) return INVALID_CONTEXT;
    return current = context, SUCCESS;
}

Status cuCtxPopCurrent_v2(void** context) {
    if (current == nullptr) return INVALID_CONTEXT;
    return *context = current, current = nullptr, SUCCESS;
}

Status cuModuleLoadData(void** module, const void* image) {
    if (current == nullptr) return INVALID_CONTEXT;
    if (memcmp(image, "\x7f" "ELF", 4) != 0) return INVALID_IMAGE;
    fprintf(stderr, "load\n");
    return *module = &module_, SUCCESS;
}

Status cuModuleGetFunction(void** function, void* module, const char* name) {
    if (module != &module_) return INVALID_VALUE;
    const std::string paths = getenv("GRU_XP_TEST_KERNELS");
    for (size_t start = 0, end; start < paths.size(); start = end + 1) {
        end = std::min(paths.find(':', start), paths.size());
        void* library = dlopen(paths.substr(start, end - start).c_str(), RTLD_NOW);
        if (library == nullptr) return NOT_FOUND;
        if (void* run = dlsym(library, name)) {
            auto launch = reinterpret_cast<decltype(Kernel::launch)>(dlsym(library, "launch"));
            *function = new Kernel{name, reinterpret_cast<void (*)()>(run), launch};
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

Status cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** parameters,
                      void** extra) {
    if (current == nullptr) return INVALID_CONTEXT;
    if (grid_x * grid_y == 0 || grid_z != 1 || block_z != 1 || shared != 0 || extra != nullptr) return INVALID_VALUE;
    const Kernel& kernel = *static_cast<Kernel*>(function);
    // the real one reads from the image how many arguments there are
    const int count = kernel.name[0] == 'i' ? 6 : kernel.name[0] == 'f' ? 10 : 11;
    long long arguments[11];
    for (int i = 0; i < count; ++i) memcpy(arguments + i, parameters[i], 8);
    kernel.launch(kernel.run, grid_x, grid_y, block_x, block_y, arguments, count);
    fprintf(stderr, "launch %s on stream %lld\n", kernel.name.c_str(), (long long)(intptr_t)stream);
    return SUCCESS;
}

Status cuGetProcAddress_v2(const char* name, void** address, int, uint64_t, int* found) {
    static const struct {
        const char* name;
        void* address;
    } table[] = {
        {"cuInit", (void*)cuInit},
        {"cuDriverGetVersion", (void*)cuDriverGetVersion},
        {"cuDeviceGet", (void*)cuDeviceGet},
        {"cuDeviceGetAttribute", (void*)cuDeviceGetAttribute},
        {"cuDevicePrimaryCtxRetain", (void*)cuDevicePrimaryCtxRetain},
        {"cuCtxPushCurrent", (void*)cuCtxPushCurrent_v2},
        {"cuCtxPopCurrent", (void*)cuCtxPopCurrent_v2},
        {"cuModuleLoadData", (void*)cuModuleLoadData},
        {"cuModuleGetFunction", (void*)cuModuleGetFunction},
        {"cuLaunchKernel", (void*)cuLaunchKernel},
        {"cuGetProcAddress", (void*)cuGetProcAddress_v2},
    };
    *address = nullptr;
    for (const auto& entry : table)
        if (strcmp(name, entry.name) == 0) *address = entry.address;
    if (found != nullptr) *found = *address == nullptr;
    return *address == nullptr ? NOT_FOUND : SUCCESS;
}
}
