// Functions that host and device share.
#pragma once

#if defined(__CUDACC__)
#define BQQ_HOST_DEVICE __host__ __device__
#else
#define BQQ_HOST_DEVICE
#endif
