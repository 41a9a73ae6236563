// What Python hands over; ``kpframe_native/library.py`` has the same structures. All arrays are contiguous.

#pragma once
#include <cstdint>

struct Gain {            // D: how a preactivation moves a component of the state
    int64_t block;       // which block of the weight's rows makes the preactivation
    int64_t state;       // where the component begins on the state's axis
    const void* values;  // [steps, batch, units]
};

struct Site {                    // W (S s): blocks * units rows, width columns
    int64_t blocks, width;
    int64_t source;              // where what it reads begins on the state's axis
    const void* packed;          // [blocks, panels of units, width, panel]
    const void* packed_adjoint;  // [panels of width, blocks * units, panel]
    const void* slope;           // S: [steps, batch, width], or null
    int64_t num_gains;
    const Gain* gains;
};

struct Direct {          // E: how an old component moves a new one, unit by unit
    int64_t target, source;
    const void* values;  // [steps, batch, units]
};

struct Read {               // what weights of some preactivations multiply: u = W z
    int64_t blocks, width;  // W has blocks * units rows, z has width entries
    int64_t ones;           // z ends with a one for so many biases that learn; 0: it does not
    const void* rows;       // z: [steps * batch, width]
    int64_t num_gains;
    const Gain* gains;
};

struct States {  // from and to states: what is written is [steps, probes, batch, hidden]
    int64_t steps, batch, probes, units, hidden;
    int64_t step_stride, probe_stride, row_stride;  // of what is read, in entries
    int32_t threads, doubles;
};

struct Problem {  // P or P*
    States states;
    int64_t num_sites;
    const Site* sites;
    int64_t num_direct;
    const Direct* direct;
    int32_t share_columns, adjoint;
};

struct Kernel {  // K
    States states;
    int64_t num_reads;
    const Read* reads;
    int32_t share_columns;
};
