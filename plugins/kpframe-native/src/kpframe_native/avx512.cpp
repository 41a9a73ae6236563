#define KPN_ISA avx512
#define KPN_BYTES 64
#define KPN_TILE 6
#include "kernel.hpp"
#include "scan.hpp"
