// For every processor, and the choice among what was compiled.
#define KPN_ISA baseline
#define KPN_BYTES 16
#define KPN_TILE 6
#include "kernel.hpp"
#include "scan.hpp"

#ifdef KPN_X86
namespace avx2 {
void run(const Problem&, const void*, void*);
void run(const Kernel&, const void*, void*);
}
namespace avx512 {
void run(const Problem&, const void*, void*);
void run(const Kernel&, const void*, void*);
}
#endif

extern "C" {

// bytes of a vector register of the best instruction set that this processor has, at most ``limit``
int kpn_vector_bytes(int limit) {
#ifdef KPN_X86
    __builtin_cpu_init();
    if (limit >= 64 && __builtin_cpu_supports("avx512f")) return 64;
    if (limit >= 32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 32;
#endif
    (void)limit;
    return 16;
}

void kpn_scan(const Problem* problem, const void* from, void* to, int vector_bytes) {
#ifdef KPN_X86
    if (vector_bytes == 64) return avx512::run(*problem, from, to);
    if (vector_bytes == 32) return avx2::run(*problem, from, to);
#endif
    (void)vector_bytes;
    baseline::run(*problem, from, to);
}

void kpn_kernel(const Kernel* kernel, const void* from, void* to, int vector_bytes) {
#ifdef KPN_X86
    if (vector_bytes == 64) return avx512::run(*kernel, from, to);
    if (vector_bytes == 32) return avx2::run(*kernel, from, to);
#endif
    (void)vector_bytes;
    baseline::run(*kernel, from, to);
}

}
