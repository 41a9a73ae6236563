#define KPN_ISA avx2
#define KPN_BYTES 32
#define KPN_TILE 6
#include "kernel.hpp"
#include "scan.hpp"
